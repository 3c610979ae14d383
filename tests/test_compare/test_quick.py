"""tools/compare.py --quick: a short trial on the user's own config."""

import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger

from frskd_mm.commands.compare import parse_args
from frskd_mm.lab.compare import describe_trial, plan_quick, run_grid
from frskd_mm.lab.compare.grid import Run
from frskd_mm.lab.compare.quick import trained_part

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
CONFIG = str(CONFIGS / 'digits' / 'wrn10-1_digits.py')
OPTIONS = {
    'train_cfg.max_epochs': 8,
    'train_dataloader.batch_size': 10,
    'train_dataloader.dataset.num_per_class': 5,
    'val_dataloader.dataset.num_per_class': 5,
    'test_dataloader.dataset.num_per_class': 5,
}


def test_a_trial_trains_a_part_and_spares_the_test_data(tmp_path):
    runs = plan_quick(CONFIG, str(tmp_path), seeds=[0], part=0.25, options=OPTIONS)
    assert [run.method for run in runs] == [
        'none',
        'label-smoothing',
        'frskd-f-attached',
        'none@1.5',
    ]
    cfg = Config.fromfile(f'{runs[0].folder}/config.py')
    assert cfg.train_cfg.max_epochs == 2
    assert cfg.test_dataloader == cfg.val_dataloader
    longer = Config.fromfile(f'{runs[-1].folder}/config.py')
    assert longer.train_cfg.max_epochs == 3

    plain = plan_quick(CONFIG, str(tmp_path), ['byot'], [0], 0.25, OPTIONS)[:1]
    assert run_grid(plain) == [], plain[0].last_log_lines()
    result = json.loads(Path(plain[0].folder, 'result.json').read_text())
    assert result['steps'] == 2 * 5
    text = describe_trial(runs, 0.25)
    assert 'After 25% of the schedule, 1 seeds, by top-1 accuracy (%)' in text
    assert 'frskd-f-attached: failed' in text


@pytest.mark.parametrize('split', ['test', 'val'])
def test_a_trial_on_the_test_data_says_so(tmp_path, caplog, split):
    logger = MMLogger.get_instance('quick')
    logger.addHandler(caplog.handler)
    options = {**OPTIONS, 'val_dataloader.dataset.split': split}
    plan_quick(CONFIG, str(tmp_path), ['ce'], [0], 0.25, options)
    logger.removeHandler(caplog.handler)
    said = 'val_dataloader, whose data are the test data' in caplog.text
    assert said == (split == 'test')


def test_a_trial_without_validation_data_says_so(tmp_path, caplog):
    logger = MMLogger.get_instance('quick')
    logger.addHandler(caplog.handler)
    options = {**OPTIONS, 'val_cfg': None, 'val_evaluator': None}
    plan_quick(
        CONFIG, str(tmp_path), ['ce'], [0], 0.25, {**options, 'val_dataloader': None}
    )
    logger.removeHandler(caplog.handler)
    assert 'judges by the test data, for want of val_dataloader' in caplog.text


def test_a_method_keeps_its_share_of_the_part(tmp_path):
    method = tmp_path / 'mine.py'
    method.write_text(
        "_base_ = 'frskd_mm::_base_/methods/frskd_cls.py'\n"
        'distiller = dict(weight_schedule=dict(begin=4))\n'
    )
    runs = plan_quick(CONFIG, str(tmp_path / 'out'), [str(method)], [0], 0.5, OPTIONS)
    cfg = Config.fromfile(f'{runs[1].folder}/config.py')
    assert cfg.model.distiller.weight_schedule.begin == 2


def test_a_refused_trial_leaves_the_folder_as_it_was(tmp_path):
    out = tmp_path / 'out'
    with pytest.raises(ValueError, match='frksd'):
        plan_quick(CONFIG, str(out), ['frksd'], [0], 0.25, OPTIONS)
    assert not out.exists()
    with pytest.raises(ValueError, match='has no model'):
        plan_quick(CONFIG, str(out), ['ce'], [0], 0.25, {**OPTIONS, 'model': None})


def test_a_trial_keeps_the_loop_of_the_test(tmp_path):
    """A ValLoop would run what hooks do after a validation, once more."""
    scenes = 'frskd_mm::digits/fcn_r18-c16_digit-scenes.py'
    (run, *_) = plan_quick(scenes, str(tmp_path), ['ce'], [0])
    cfg = Config.fromfile(f'{run.folder}/config.py')
    assert (cfg.val_cfg.type, cfg.test_cfg.type) == ('ValLoop', 'TestLoop')


def test_another_part_in_the_same_folder_is_refused(tmp_path):
    plan_quick(CONFIG, str(tmp_path), seeds=[0], part=0.25, options=OPTIONS)
    with pytest.raises(ValueError, match=r'max_epochs: 2 \| 4'):
        plan_quick(CONFIG, str(tmp_path), seeds=[0], part=0.5, options=OPTIONS)


@pytest.mark.parametrize('part', [0, -1, 1.5, float('nan')])
def test_a_part_out_of_range_is_refused(tmp_path, part):
    with pytest.raises(ValueError, match='over 0 and at most 1'):
        plan_quick(CONFIG, str(tmp_path), part=part)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('part', 'real'), [(0.25, 0.25), (0.27, 0.25), (0.3, 0.25)])
def test_the_part_is_of_whole_epochs(tmp_path, caplog, part, real):
    logger = MMLogger.get_instance('quick')
    logger.addHandler(caplog.handler)
    options = {**OPTIONS, 'train_cfg.max_epochs': 4}
    plan_quick(CONFIG, str(tmp_path), ['ce'], [0], part, options)
    logger.removeHandler(caplog.handler)
    assert trained_part(CONFIG, part, options) == real
    said = 'trains 25% of the schedule, 1 of 4, not the 30% of --part' in caplog.text
    assert said == (part == 0.3)


def test_the_rival_s_time_is_that_which_it_took(tmp_path):
    """Of one epoch half as many again are two."""
    runs = [
        *finished(tmp_path, 'none', [50.0, 52.0], steps=900),
        *finished(tmp_path, 'none@1.5', [50.0, 52.5], steps=1800),
    ]
    text = describe_trial(runs, part=0.25)
    assert 'After 25% of the schedule' in text
    assert 'a whole plain training takes about 1 h here' in text
    assert 'from the plain student; about 1.5 h' in text
    assert 'none@1.5, the plain student for 2 times as long' in text


def finished(tmp_path, method, values, seconds=1.0, steps=3600):
    runs = []
    for seed, value in enumerate(values):
        run = Run(method, seed, str(tmp_path / method / f'seed{seed}'))
        Path(run.folder).mkdir(parents=True)
        result = dict(
            metrics={'accuracy/top1': value}, step_seconds=seconds, steps=steps
        )
        Path(run.folder, 'result.json').write_text(json.dumps(result))
        Path(run.folder, 'config.py').write_text(f'randomness = dict(seed={seed})\n')
        runs.append(run)
    (tmp_path / 'recipe.py').write_text('')
    return runs


def test_the_verdicts_follow_from_the_numbers(tmp_path):
    runs = [
        *finished(tmp_path, 'none', [50.0, 52.0]),
        *finished(tmp_path, 'better', [53.0, 55.1]),
        *finished(tmp_path, 'best', [59.0, 61.1], seconds=1.5),
        *finished(tmp_path, 'worse', [41.0, 42.9]),
        *finished(tmp_path, 'equal', [51.0, 53.0]),
        *finished(tmp_path, 'alike', [54.0, 52.0]),
    ]
    text = describe_trial(runs, part=0.25)
    assert 'a whole plain training takes about 4 h here' in text
    assert 'intervals of 95 %, corrected for 5 methods' in text
    # mean 3.05, error 0.05, Student's t at 1 - 0.05 / 5 for one degree of freedom
    # 63.657; at 0.95 it is 12.706, by which the third would be above, too.
    assert '  better: +3.05 [-0.13, +6.23], not told apart from' in text
    assert '  best: +9.05 [+5.87, +12.23], above the plain student; about 6 h' in text
    assert '  worse: -9.05 [-12.23, -5.87], below the plain student; about 4 h' in text
    assert '  alike: +2.00 [-125.31, +129.31], not told apart' in text
    assert '  equal: +1.00 [all seeds alike: none], not told apart' in text


def test_a_verdict_is_corrected_for_methods_of_earlier_commands(tmp_path):
    runs = [
        *finished(tmp_path, 'none', [50.0, 52.0]),
        *finished(tmp_path, 'better', [51.0, 53.1]),
    ]
    assert 'better: +1.05 [+0.41, +1.69], above' in describe_trial(runs, 0.25)
    finished(tmp_path, 'earlier', [50.0, 51.0])
    text = describe_trial(runs, 0.25)
    assert 'better: +1.05 [-0.22, +2.32], not told apart' in text
    assert 'earlier: -0.50 [' in text


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--config', CONFIG], '--methods names what to compare'),
        (['--config', CONFIG, '--methods', 'ce', '--part', '1'], 'belongs to --quick'),
        (['--config', CONFIG, '--quick', CONFIG], 'not allowed with'),
        ([], 'one of the arguments --config --quick is required'),
    ],
)
def test_wrong_arguments_are_refused(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr('sys.argv', ['compare', *arguments])
    with pytest.raises(SystemExit):
        parse_args()
    assert message in capsys.readouterr().err
