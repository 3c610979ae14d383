"""Commands end with a sentence for mistakes, and with a traceback for bugs."""

import errno
import logging

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from mmengine.runner import IterBasedTrainLoop

from frskd_mm.models.losses import SoftLabelLoss
from frskd_mm.models.necks.bifpn import check_in_channels
from frskd_mm.utils.arguments import ArgumentError
from frskd_mm.utils.command import CommandParser, is_user_mistake, run_command
from frskd_mm.utils.explain import explained
from frskd_mm.utils.model import build_model


def build(model):
    return build_model(Config(dict(model=model)))


def our_mistake():
    check_in_channels('BiFPN', [4])


def our_bug():
    check_in_channels('BiFPN', 4)


def their_mistake():
    build(dict(type='NoSuchModel'))


def their_error():
    MODELS.build(dict(type='NoSuchModel'))


def their_argument():
    build(dict(type='mmpretrain.ResNet_CIFAR', depth=18, base_chanels=8))


def file_mistake():
    open('/nowhere/at/all')


class Loop:
    """Stands for a loop of the runner that has begun."""

    def __init__(self, step):
        self.run_iter = step
        self._iter = self._max_iters = 0

    def __getattr__(self, name):
        return self.run_iter()


def in_a_loop(step):
    return lambda: IterBasedTrainLoop.run(Loop(step))


MISTAKES = {
    'ours': (our_mistake, 'BiFPN refines at least two feature maps'),
    'an unknown type': (their_mistake, 'NoSuchModel is not in the'),
    'an unknown argument': (their_argument, 'which is model.base_chanels'),
    'a missing file': (file_mistake, "No such file or directory: '/nowhere/at/all'"),
    'ours in a loop': (in_a_loop(our_mistake), 'BiFPN refines at least two'),
}
BUGS = {
    'ours': (our_bug, TypeError),
    "a host's error in a loop": (in_a_loop(their_error), KeyError),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistakes_end_with_a_sentence(name, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['/tools/train.py'])
    main, message = MISTAKES[name]
    with pytest.raises(SystemExit) as caught:
        run_command(main)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith('train.py: error: ')
    assert message in error
    assert 'Traceback' not in error
    assert '--traceback' in error


@pytest.mark.parametrize('name', BUGS)
def test_bugs_show_where_they_are(name, monkeypatch):
    monkeypatch.setattr('sys.argv', ['/tools/train.py'])
    main, error = BUGS[name]
    with pytest.raises(error):
        run_command(main)


def test_a_traceback_is_had_for_the_asking(monkeypatch):
    monkeypatch.setattr('sys.argv', ['train.py', '--traceback'])
    with pytest.raises(ValueError, match='at least two'):
        run_command(our_mistake)


def test_the_log_of_a_run_has_the_traceback(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr('sys.argv', ['train.py'])
    path = tmp_path / 'run.log'
    MMLogger.get_instance('run', log_file=str(path), log_level=logging.INFO)
    with pytest.raises(SystemExit):
        run_command(our_mistake)
    logged = capsys.readouterr().err.split('The log has the traceback: ')[1]
    text = open(logged.strip().rstrip(')')).read()
    assert 'Traceback' in text
    assert 'in check_in_channels' in text


@pytest.mark.parametrize('text', ['batch_size', 'a.b:3', '=3', '.=1'])
def test_an_option_without_a_value_is_named(text, capsys):
    parser = CommandParser()
    parser.add_cfg_options()
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(['--cfg-options', 'a=1', text])
    assert caught.value.code == 2
    assert f'takes KEY=VALUE, such as {"train"}' in capsys.readouterr().err
    assert parser.parse_args(['--cfg-options', 'a=1', 'b=x']).cfg_options == dict(
        a=1, b='x'
    )


@pytest.mark.parametrize(
    ('model', 'error', 'message'),
    [
        (
            dict(type='BiFPNc', in_channels=[4, 8]),
            KeyError,
            r"model.type='BiFPNc': .* Did you mean frskd_mm.BiFPNc\?.* default_scope",
        ),
        (dict(type='frskd_mm.BiFPMc', in_channels=[4]), KeyError, 'frskd_mm.BiFPNc'),
        (dict(type='frskd.BiFPNc', in_channels=[4]), KeyError, 'mean frskd_mm.BiFPNc'),
        (dict(type='zzzzzzz'), KeyError, "model.type='zzzzzzz'"),
        (
            dict(type='mmpretrain.ResNet_CIFAR', depth=18, stem_chanels=8),
            TypeError,
            'ResNet has no argument stem_chanels, which is model.stem_.*stem_channels',
        ),
        (
            dict(type='mmpretrain.ResNet_CIFAR'),
            TypeError,
            "ResNet_CIFAR needs 'depth', which is not set at model of the config",
        ),
        (
            dict(type='frskd_mm.SoftLabelLoss', temperature=0),
            ValueError,
            'temperature',
        ),
    ],
)
def test_errors_of_a_build_name_the_place_and_what_was_meant(model, error, message):
    cfg = Config(dict(model=model))
    with pytest.raises(error, match=message), explained(cfg):
        MODELS.build(cfg.model)


@pytest.mark.parametrize(
    ('head', 'message'),
    [
        (
            dict(num_classes='11'),
            'FCNHead, model.head .*built .* TypeError: not all arg',
        ),
        (dict(num_convs=-1, num_classes=2), 'FCNHead, model.head .*: assert num_convs'),
    ],
)
def test_a_host_s_part_that_breaks_is_named(head, message):
    head = dict(type='mmseg.FCNHead', in_channels=4, channels=4, **head)
    cfg = Config(dict(model=dict(type='mmseg.EncoderDecoder', head=head)))
    with pytest.raises(ValueError, match=message), explained(cfg):
        MODELS.build(cfg.model.head)


def test_a_wrong_argument_is_placed_where_it_stands_once():
    loss = dict(type='frskd_mm.SoftLabelLoss')
    cfg = Config(dict(model=dict(a=loss, b=dict(c=[{**loss, 'temperature': 0}]))))
    cfg.copy_of_it = cfg.model
    message = r'temperature of SoftLabelLoss is wrong. It is model.b.c\[0\].temperature'
    with pytest.raises(ArgumentError, match=message), explained(cfg):
        raise ArgumentError(SoftLabelLoss.__name__, 'temperature', 'is wrong.')


def test_faults_of_the_machine_are_no_mistakes():
    """They end with exit code 1, after which a run may be started again."""
    for error in (ConnectionResetError(), OSError(errno.ENOMEM, 'no memory')):
        assert not is_user_mistake(error)
    for error in (FileNotFoundError('a'), OSError(errno.ENOSPC, 'no space')):
        assert is_user_mistake(error)
