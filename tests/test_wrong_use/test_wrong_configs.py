"""Wrong configs, options and command lines, and the message that each gets."""

import inspect
import os
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from frskd_mm.engine import (
    configure_run,
    export_student,
    load_config,
    resolve_work_dir,
    wrap,
)
from frskd_mm.engine.config import KNOWN_KEYS
from frskd_mm.engine.runs import build_runner
from frskd_mm.utils.model import build_model

REPO = Path(__file__).resolve().parents[2]
DIGITS = 'configs/digits/frskd_wrn10-1_digits.py'
PLAIN = 'configs/digits/wrn10-1_digits.py'

FILES = {
    'syntax.py': (
        'model = (1,\n',
        r'syntax.py cannot be read as a config: SyntaxError',
    ),
    'name.py': (
        'a = 1\nb = c + 1\n',
        "name.py, line 2 cannot be read as a config: NameError: name 'c'",
    ),
    'base.py': ("_base_ = './nothing.py'\n", 'base.py inherits a file .*nothing.py'),
    'attribute.py': (
        "_base_ = './good.py'\nb = _base_.nothing\n",
        "attribute.py, line 2 cannot .*no attribute 'nothing'",
    ),
    'twice.py': (
        "_base_ = ['./good.py', './other.py']\n",
        'twice.py cannot be read .*Duplicate key is not allowed',
    ),
    'package.py': ('import nonexistent_package\n', 'package.py.* cannot be read'),
    'host.py': ("_base_ = 'mmdet::retinanet/no.py'\n", 'host.py .*retinanet/no.py'),
    'json.json': ('{"model": ', 'json.json cannot be read as a config'),
    'note.txt': ('hello', r'note.txt is not a config: the name has to end in .py'),
    'noending': ('hello', r'noending is not a config'),
    'loader.py': ('train_dataloder = {}\n', 'train_dataloder .*mean train_dataloader'),
    'scope.py': ("default_scop = 'mmdet'\n", 'default_scop .*mean default_scope'),
    'hooks.py': ('custom_hook = []\n', 'custom_hook .*mean custom_hooks'),
    'swap.py': ('optim_warpper = {}\n', 'optim_warpper .*mean optim_wrapper'),
    'load.py': ("load_form = 'a.pth'\n", 'load_form .*mean load_from'),
    'schedule.py': ('param_schedulers = []\n', 'mean param_scheduler.*of your own'),
    'seed.py': ('randomnes = dict(seed=1)\n', 'mean randomness'),
    'samples.py': ("bad_sample = 'skip'\n", 'mean bad_samples'),
}


@pytest.mark.parametrize('name', FILES)
def test_files_that_are_no_config_are_named(name, tmp_path):
    (tmp_path / 'good.py').write_text("model = dict(type='A')\n")
    (tmp_path / 'other.py').write_text("model = dict(type='B')\n")
    text, message = FILES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_config(str(tmp_path / name))


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('configs', r'configs is a folder. Name a config file'),
        ('configs/digits', r'digits is a folder. .* such as .*digits/.*\.py'),
        ('configs/digits/wrn10-1_digit.py', 'Similar: .*wrn10-1_digits.py'),
        ('configs/digitz/wrn10-1_digits.py', 'There is no config'),
        ('', 'There is no config'),
        ('mmdet::retinanet', "wants a folder after '::'"),
        ('mmdett::retinanet/a.py', 'mmdett'),
    ],
)
def test_wrong_paths_of_configs_are_named(path, message):
    path = path if '::' in path or not path else str(REPO / path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_config(path)


def test_the_runner_reads_what_is_known():
    read = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    assert read <= KNOWN_KEYS


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(launcher='pytorch'), r'RANK, .*torchrun .*or leave --launcher out'),
        (dict(launcher='slurm'), 'SLURM_PROCID.*srun'),
        (dict(launcher='mpi'), 'OMPI_COMM_WORLD.*mpirun'),
        (dict(resume='nowhere.pth'), 'There is no checkpoint nowhere.pth'),
    ],
)
def test_wrong_options_of_a_run_are_named(options, message, tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith(('RANK', 'WORLD_', 'MASTER_', 'SLURM', 'OMPI')):
            monkeypatch.delenv(name)
    cfg = load_config(str(REPO / PLAIN))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        configure_run(cfg, str(tmp_path), **options)


def test_a_file_for_others_to_inherit_is_no_config_of_a_run(tmp_path):
    path = tmp_path / 'part.py'
    path.write_text('train_cfg = dict(max_epochs=1)\n')
    cfg = load_config(str(path))
    with pytest.raises(ValueError, match='part.py has no model=.*others inherit'):
        configure_run(cfg, resolve_work_dir(cfg, str(path), str(tmp_path)))


OPTIONS = [
    ({'model.student.backbone.type': 'frskd_mm.WideResnet'}, 'mean frskd_mm.WideResN'),
    ({'model.student.backbone.type': 'WideResNet'}, 'Did you mean frskd_mm.WideResNet'),
    ({'model.student.backbone.type': 'frskd.WideResNet'}, 'mean frskd_mm.WideResNet'),
    ({'model.student.type': 'ImageClasifier'}, r'ImageClassifier\?'),
    ({'model.student.backbone.deph': 10}, 'mean depth'),
    ({'model.student.backbone.depth': '10'}, 'depth of WideResNet must be a whole'),
    ({'model.student.backbone.depth': 11}, r'6 \* n \+ 4'),
    ({'model.student.backbone.out_indices': 2}, 'out_indices of WideResNet must be a'),
    ({'model.student.backbone.out_indices': (0, 3)}, r'taken from \(0, 1, 2\)'),
    ({'model.student.backbone.drop_rate': 2}, r'drop_rate .*within \[0, 1\], got 2'),
    ({'model.student.head.type': 'LinearClsHaed'}, 'mean .*LinearClsHead'),
    ({'model.distiller.type': 'frskd_mm.FRSDK'}, 'Did you mean frskd_mm.FRSKD'),
    ({'model.distiller.type': 'FRSKD'}, 'Did you mean frskd_mm.FRSKD'),
    ({'model.distiller.neck.type': 'frskd_mm.BIFPNc'}, 'Did you mean frskd_mm.BiFPNc'),
    (
        {'model.distiller.neck.width': '2'},
        'width of BiFPNc must be a finite number.*It',
    ),
    ({'model.distiller.neck.width': float('nan')}, 'width of BiFPNc .*got nan'),
    ({'model.distiller.neck.depth': 0}, 'It is model.distiller.neck.depth in the con'),
    ({'model.distiller.neck.dept': 1}, 'no argument dept. Did you mean depth'),
    ({'model.distiller.weight_schedule': dict(begin='3')}, 'begin of WeightSchedule'),
    ({'model.distiller.weight_schedule': dict(start=3)}, 'WeightSchedule has no argum'),
]


@pytest.mark.parametrize(
    ('options', 'message'), OPTIONS, ids=[str(case[0])[1:50] for case in OPTIONS]
)
def test_wrong_settings_of_a_model_are_placed(options, message):
    cfg = load_config(str(REPO / DIGITS), options)
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        build_model(cfg)


def test_a_runner_s_parts_are_placed(tmp_path):
    options = {'default_hooks.logger.intervals': 1, 'log_level': 'ERROR'}
    cfg = configure_run(load_config(str(REPO / PLAIN), options), str(tmp_path))
    message = 'no argument intervals, which is default_hooks.logger.intervals'
    with pytest.raises(TypeError, match=f'{message}.*Did you mean interval'):
        build_runner(cfg)


@pytest.mark.parametrize(
    ('method', 'message'),
    [
        ('frskdd', r"no method 'frskdd' .*Did you mean frskd\?"),
        ('FRSKD', 'There are: none'),
        ('byto', r'Did you mean byot\?'),
        ('label_smoothing', 'Did you mean label-smoothing'),
        ('nowhere.py', 'There is no config nowhere.py'),
        ('', "no method ''"),
    ],
)
def test_unknown_methods_name_similar_ones(method, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        wrap(load_config(str(REPO / PLAIN)), method)


@pytest.mark.parametrize(
    ('out', 'message'),
    [
        ('notes.txt', 'notes.txt is another file than an earlier'),
        ('weights.pth', 'weights.pth is another file than an earlier'),
        ('.', 'OUT is the checkpoint to write'),
        ('trained.pth', 'OUT is the checkpoint itself'),
    ],
)
def test_an_export_overwrites_nothing_else(out, message, tmp_path):
    cfg = load_config(str(REPO / DIGITS))
    checkpoint = tmp_path / 'trained.pth'
    torch.save(dict(state_dict={}, meta={}), checkpoint)
    (tmp_path / 'notes.txt').write_text('mine')
    torch.save(dict(state_dict={}), tmp_path / 'weights.pth')
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        export_student(cfg, str(checkpoint), str(tmp_path / out))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


COMMANDS = [
    (['train.py', 'configs'], 'configs is a folder'),
    (['train.py', PLAIN, '--method', 'frskdd'], 'Did you mean frskd?'),
    (['train.py', PLAIN, '--cfg-options', 'a'], 'takes KEY=VALUE'),
    (
        ['train.py', PLAIN, '--method=frskd']
        + ['--cfg-options', 'model.distiller.neck.width=wide'],
        'model.distiller.neck.width in the config',
    ),
    (['benchmark.py', PLAIN, '--threads', '0'], '--threads must be 1 or more, not 0'),
]


@pytest.mark.parametrize(('command', 'message'), COMMANDS, ids=lambda case: case[-1])
def test_commands_print_the_sentence_alone(command, message, monkeypatch, capsys):
    monkeypatch.chdir(REPO)
    monkeypatch.setattr('sys.argv', command)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(REPO / 'tools' / command[0]), run_name='__main__')
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert 'Traceback' not in printed.err + printed.out


def test_variables_of_one_s_own_are_taken(tmp_path):
    path = tmp_path / 'own.py'
    path.write_text('train_pipeline = test_pipeline = []\nmodels = 1\nlr = 0.1\n')
    assert isinstance(load_config(str(path)), Config)
