"""tools/check_models.py tries configs as they are, and finds what is not right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config

from frskd_mm.engine import load_config
from frskd_mm.lab.model_check.apart import Entry, nightly, read_entries, select
from frskd_mm.lab.model_check.check import (
    NOT_PLAIN,
    REFUSED,
    UNCLEAR,
    WITH_SETTING,
    WORKS,
    check_model,
)
from frskd_mm.lab.model_check.compare import (
    check_terms,
    compare_answers,
    compare_weights,
)
from frskd_mm.lab.model_check.step import answers, build, lighten
from frskd_mm.lab.model_check.table import UNTRIED, VERDICTS, summary, table_row

ROOT = Path(__file__).parents[2]
LIST = ROOT / 'tools' / 'upstream_models.yml'
ENTRIES = read_entries(str(LIST))
TEXT = (ROOT / 'docs' / 'models.md').read_text()
PAGE = [line.strip('| ').split(' | ') for line in TEXT.splitlines() if '::<br>' in line]
DIGITS = 'configs/digits/wrn10-1_digits.py'
SCENES = 'configs/digits/retinanet_r18-c16_digit-scenes.py'


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    """Paths of configs are from the root of the checkout."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize('path', [DIGITS, SCENES])
def test_a_config_that_works(path):
    phases = []
    result = check_model(path, note=phases.append)
    assert result['outcome'] == WORKS, result
    assert phases == ['plain', 'build', 'step', 'export']
    assert result['student'] > 70_000
    assert result['distiller'] > 0
    assert {'loss_kd', 'loss_at'} <= result['terms'].keys()
    assert not result['unused']


def test_a_term_that_trains_what_it_should_not_is_found():
    """The self-teacher's own loss reaches the student where nothing is detached."""
    options = {'model.distiller.detach_inputs': False}
    result = check_model(DIGITS, options=options, note=str)
    assert result['outcome'] == UNCLEAR
    assert result['error'].startswith('self_teacher trains backbone.')


def test_a_plain_model_that_does_not_train_is_told_apart():
    result = check_model(DIGITS, options={'model.head.in_channels': 65}, note=str)
    assert result['outcome'] == NOT_PLAIN
    assert 'shapes cannot be multiplied' in result['error']
    assert result['plain_error'] == result['error']


def test_a_config_that_cannot_be_read_is_no_fault_of_the_method(tmp_path):
    (tmp_path / 'broken.py').write_text('model = dict(')
    result = check_model(str(tmp_path / 'broken.py'), note=str)
    assert result['outcome'] == NOT_PLAIN
    assert 'cannot be read as a config' in result['error']


def multi_label(cfg):
    cfg.model.head = dict(type='MultiLabelLinearClsHead', num_classes=9, in_channels=64)


@pytest.fixture
def variant(tmp_path):
    """Write a config of this checkout with a change."""

    def write(path, change):
        cfg = Config.fromfile(path)
        change(cfg)
        out = tmp_path / 'variant.py'
        cfg.dump(out)
        return str(out)

    return write


def test_a_clear_refusal(variant):
    result = check_model(variant(DIGITS, multi_label), note=str)
    assert result['outcome'] == REFUSED
    assert 'one label an image' in result['error']


@pytest.mark.parametrize(
    ('terms', 'problem'),
    [
        ({'loss_kd': 0.0}, 'loss_kd is 0.0.'),
        ({'loss_at': float('nan')}, 'loss_at is nan.'),
        ({'self_teacher.loss_cls': float('inf')}, 'self_teacher.loss_cls is inf.'),
        ({'self_teacher.loss_cls': 0.0}, "The self-teacher's own loss is 0."),
        (
            {'student.task_loss': 2.1},
            'The task loss is 2.1, but 2.0 of the plain model.',
        ),
    ],
)
def test_terms_that_are_not_right_are_named(terms, problem):
    right = {
        'student.loss': 2.0,
        'student.task_loss': 2.0,
        'loss_kd': 0.1,
        'loss_at': 0.2,
        'self_teacher.loss_cls': 1.0,
    }
    assert check_terms(right, plain=2.0) == []
    assert check_terms({**right, **terms}, plain=2.0) == [problem]


def test_weights_that_differ_are_named():
    plain = {'a': torch.ones(2), 'b': torch.full((2,), float('nan'))}
    assert compare_weights(plain, dict(plain)) == []
    assert compare_weights(plain, {'a': torch.ones(2)}) == [
        '1 weights are not of both models, as b.'
    ]
    other = {**plain, 'a': torch.tensor([1.0, 1.0001])}
    assert compare_weights(plain, other) == ['1 initial weights differ, as a.']


def test_answers_that_differ_are_named():
    one, two = [torch.ones(2), torch.zeros(0)], [torch.ones(2), torch.zeros(1)]
    assert compare_answers(one, one) == []
    assert compare_answers(one, two) == ['The exported student predicts otherwise.']
    assert compare_answers(one, one[:1]) == ['The exported student predicts otherwise.']
    assert compare_answers(one[1:], one[1:]) == ['There are no predictions to compare.']


def test_feature_maps_are_compared_where_nothing_is_predicted(monkeypatch):
    cfg = load_config(DIGITS)
    model = build(cfg)
    (scores,) = {tuple(one.shape) for one in answers(model, cfg, 64)} - {(), (1,)}
    assert scores == (10,)
    monkeypatch.setattr(model, 'forward', lambda *args, **kwargs: 1 / 0)
    assert [tuple(one.shape) for one in answers(model, cfg, 64)] == [(2, 64)]


def test_work_is_spared_but_no_part_changed():
    cfg = load_config('mmdet::htc/htc_r50_fpn_1x_coco.py')
    before = cfg.model.to_dict()
    lighten(cfg)
    stages = cfg.model.train_cfg.rcnn
    assert [stage.sampler.num for stage in stages] == [16] * 3
    assert cfg.model.test_cfg.rcnn.max_per_img == 50
    changed = {key for key, value in before.items() if cfg.model[key] != value}
    assert changed == {'train_cfg', 'test_cfg'}


def test_the_list_is_of_configs_that_exist():
    assert len(ENTRIES) >= 150
    assert len({entry.slug for entry in ENTRIES}) == len(ENTRIES)
    assert [entry.path for entry in ENTRIES if not Path(entry.file).is_file()] == []


def test_the_page_is_of_the_list():
    listed = [(e.family, e.path.replace('::', '::<br>')) for e in ENTRIES]
    assert [tuple(row[:2]) for row in PAGE] == listed
    tried = [row[2] for row in PAGE if row[2] != UNTRIED]
    assert len(tried) >= 150
    assert set(tried) <= set(VERDICTS.values())
    assert f'Of {len(tried)} configs: {tried.count("yes")} work as they are' in TEXT


def test_every_config_is_in_one_shard():
    shards = [select(ENTRIES, [], f'{i}/3') for i in (1, 2, 3)]
    assert sorted(sum(shards, [])) == sorted(ENTRIES)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    (entry,) = select(ENTRIES, ['HTC'], '1/1')
    assert entry.path == 'mmdet::htc/htc_r50_fpn_1x_coco.py'
    for only, shard, message in [
        (['HTCC'], '1/1', '--only knows no HTCC'),
        ([], '4/3', '--shard is I/N'),
    ]:
        with pytest.raises(ValueError, match=message):
            select(ENTRIES, only, shard)


def test_the_nightly_configs_are_one_of_each_group():
    chosen = nightly(ENTRIES)
    groups = [(entry.library, entry.group) for entry in chosen]
    assert len(set(groups)) == len(groups) == len({e[:2] for e in ENTRIES})


def test_a_row_says_what_was_needed_and_what_was_set():
    entry = Entry('mmdet', 'Dense heads', 'Some', 'some/some.py', {'model.a': '1'})
    record = dict(
        outcome=WITH_SETTING,
        setting={'model.distiller.b': '0'},
        error='SomeHead a | b.',
        student=1_234_567,
        distiller=90_000,
        image_size=256,
        unused=['distiller.c'],
        unused_plain=[],
    )
    assert table_row(entry, record) == (
        '| Some | mmdet::<br>some/some.py | with a setting | 1.2 | 0.1 | Both models '
        'with `--cfg-options model.a=1`. With `--cfg-options model.distiller.b=0`; '
        'without: SomeHead a \\| b. Images of 256 pixels. 1 parameters get no '
        'gradient, as `distiller.c`: set `find_unused_parameters=True` for several '
        'processes. |'
    )


def test_the_share_is_of_those_whose_plain_model_trains():
    broken = dict(outcome=NOT_PLAIN, plain_error='Why.')
    records = [dict(outcome=WORKS)] * 3 + [dict(outcome=REFUSED)] + [broken] * 4
    records.append(dict(outcome=REFUSED, plain_error='Why.'))
    text = summary(records)
    assert text.startswith('Of 9 configs: 3 work as they are,')
    assert 'Of the 4 whose plain model trains here, 75.0% work as they are' in text


@pytest.fixture(scope='module')
def tried(tmp_path_factory):
    """Run the tool on a list of three configs in two shards."""
    folder = tmp_path_factory.mktemp('tried')
    huge = dict(config=DIGITS, needs={'model.head.num_classes': 10**8})
    families = {'WRN': DIGITS, 'RetinaNet': SCENES, 'Huge': huge}
    listed = {'': {'Small': families}}
    (folder / 'list.yml').write_text(yaml.safe_dump(listed, sort_keys=False))

    def run(*arguments):
        command = [sys.executable, 'tools/check_models.py', '--memory', '4', *arguments]
        for name in ('list.yml', 'records', 'table.md'):
            command += [f'--{Path(name).stem}', str(folder / name)]
        return subprocess.run(
            command, check=True, cwd=ROOT, capture_output=True, text=True
        ).stdout

    return folder, run, [run('--shard', '2/2'), run()]


def record_of(folder, family):
    return json.loads((folder / 'records' / 'frskd' / f'{family}.json').read_text())


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(tried):
    folder, _, (first, second) = tried
    assert '1/1 ' in first
    assert '| RetinaNet |' in first
    assert '2 have no record yet' in first
    assert '2/2 ' in second
    assert '| WRN |' in second
    assert '| RetinaNet |' not in second
    page = (folder / 'table.md').read_text()
    assert 'Of 3 configs: 2 work as they are' in page
    assert f'| WRN | {DIGITS} | yes | 0.1 |' in page
    assert {path.name for path in (folder / 'records' / 'frskd').iterdir()} == {
        f'{family}.{kind}'
        for family in ('wrn', 'retinanet', 'huge')
        for kind in ('json', 'log')
    }
    assert record_of(folder, 'wrn')['outcome'] == WORKS


@pytest.mark.slow
def test_a_model_that_takes_too_much_memory_is_cut_off(tried):
    folder, *_ = tried
    record = record_of(folder, 'huge')
    assert record['outcome'] == NOT_PLAIN
    assert "can't allocate memory" in record['error']


@pytest.mark.slow
def test_a_model_that_takes_too_long_is_cut_off(tried):
    folder, run, _ = tried
    run('--only', 'RetinaNet', '--again', '--timeout', '0.01')
    record = record_of(folder, 'retinanet')
    assert record['outcome'] == NOT_PLAIN
    assert record['error'] == 'not done after 0.01 s'


@pytest.mark.slow
@pytest.mark.parametrize('entry', nightly(ENTRIES), ids=lambda entry: entry.slug)
def test_one_config_of_each_group_does_what_the_page_says(entry):
    result = check_model(entry.path, options=entry.needs, note=str)
    said = {(row[0], row[1].replace('<br>', '')): row[2] for row in PAGE}
    assert VERDICTS[result['outcome']] == said[entry.family, entry.path], result
