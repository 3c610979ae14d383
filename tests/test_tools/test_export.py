"""The student leaves the toolkit: export, load in plain mmpretrain, predict."""

import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from frskd_mm.engine import (
    configure_run,
    evaluate,
    export_student,
    load_config,
    student_config,
    train,
)
from frskd_mm.engine.export import load_student
from frskd_mm.utils.model import build_model

REPO = Path(__file__).resolve().parents[2]
CONFIG = str(REPO / 'configs/digits/frskd_wrn10-1_digits.py')


def read_config(work_dir, **options):
    cfg = load_config(CONFIG, {'log_level': 'ERROR', **options})
    cfg.train_dataloader.dataset.num_per_class = 4
    cfg.val_dataloader.dataset.indices = 200
    cfg.test_dataloader.dataset.indices = 200
    return configure_run(cfg, work_dir=str(work_dir))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Runner of a short training, and its checkpoint."""
    work_dir = tmp_path_factory.mktemp('trained')
    cfg = read_config(work_dir, **{'train_cfg.max_epochs': 2})
    cfg.default_hooks.checkpoint.interval = 1
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, str(work_dir / 'epoch_2.pth')


@pytest.fixture(scope='module')
def exported(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp('exported') / 'new/student.pth'
    return export_student(read_config(out.parent), trained[1], str(out))


def scores(model):
    """Softmax scores of 20 random images."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 256, (20, 3, 24, 24), generator=generator)
    model.eval()
    with torch.no_grad():
        samples = model.val_step({'inputs': inputs.float(), 'data_samples': None})
    return torch.stack([sample.pred_score for sample in samples])


def test_exported_file_is_the_student_alone(exported, trained):
    state = torch.load(exported[0], weights_only=False)['state_dict']
    assert state
    assert not any(key.startswith('distiller') for key in state)
    full = torch.load(trained[1], weights_only=False)['state_dict']
    assert {key for key in full if not key.startswith('distiller')} == set(state)


@pytest.mark.parametrize('which', ['exported', 'training checkpoint'])
def test_plain_mmpretrain_predicts_the_same_bits(which, exported, trained):
    from mmpretrain.apis import get_model

    runner, checkpoint = trained
    weights = exported[0] if which == 'exported' else checkpoint
    plain = get_model(Config.fromfile(exported[1]), pretrained=weights, device='cpu')
    assert type(plain).__name__ == 'ImageClassifier'
    assert torch.equal(scores(plain), scores(runner.model))


def test_hosts_build_the_distilled_config_itself(trained):
    from mmpretrain.apis import get_model
    from mmseg.apis import init_model

    runner, checkpoint = trained
    model = get_model(CONFIG, pretrained=checkpoint, device='cpu')
    assert torch.equal(scores(model), scores(runner.model))
    changed = get_model(CONFIG, student=dict(head=dict(num_classes=7)), device='cpu')
    assert changed.head.num_classes == 7
    with pytest.raises(TypeError, match='not neck. .*frskd export writes'):
        get_model(CONFIG, neck=None, device='cpu')
    segmentor = init_model(
        str(REPO / 'configs/digits/frskd_fcn_r18-c16_digit-scenes.py'), device='cpu'
    )
    assert hasattr(segmentor, 'distiller')


def test_inferencer_reads_config_and_checkpoint(exported):
    from mmpretrain import ImageClassificationInferencer

    inferencer = ImageClassificationInferencer(
        exported[1], pretrained=exported[0], device='cpu'
    )
    image = np.zeros((24, 24, 3), np.uint8)
    assert len(inferencer(image)[0]['pred_scores']) == 10


def test_accuracy_is_the_same_before_and_after_export(exported, trained, tmp_path):
    student = evaluate(read_config(tmp_path / 'a'), trained[1])
    assert evaluate(read_config(tmp_path / 'b'), exported[0]) == student
    teacher = evaluate(read_config(tmp_path / 'c'), trained[1], self_teacher=True)
    assert teacher.keys() == student.keys()
    assert 0 <= teacher['accuracy/top1'] <= 100


def test_testing_leaves_the_config_of_the_training(trained, tmp_path):
    cfg, path = read_config(tmp_path), tmp_path / Path(CONFIG).name
    cfg.dump(str(path))
    before = path.read_text()
    again = load_config(str(path))
    evaluate(configure_run(again, work_dir=str(tmp_path)), trained[1])
    assert path.read_text() == before
    written = Config.fromfile(str(tmp_path / f'test_{path.name}'))
    assert written.load_from == trained[1]


def test_an_exported_config_names_no_folder_of_the_training(exported):
    plain = Config.fromfile(exported[1])
    assert {'work_dir', 'load_from', 'resume', 'launcher'}.isdisjoint(plain.keys())


def test_an_exported_student_is_evaluated_from_python(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metrics = evaluate(load_config(exported[1], {'log_level': 'ERROR'}), exported[0])
    assert 'accuracy/top1' in metrics
    assert (tmp_path / 'work_dirs' / 'student').is_dir()


def test_testing_needs_no_weights_to_start_from(trained, tmp_path):
    cfg = read_config(tmp_path, load_from='absent.pth')
    assert 'accuracy/top1' in evaluate(cfg, trained[1])
    cfg = read_config(tmp_path, load_from='absent.pth')
    with pytest.raises(FileNotFoundError, match=r'no checkpoint absent\.pth'):
        train(cfg)


def test_self_teacher_of_an_exported_student_is_refused(exported, tmp_path):
    with pytest.raises(ValueError, match='holds the student alone'):
        evaluate(read_config(tmp_path), exported[0], self_teacher=True)


def test_truncated_checkpoint_is_named(trained, tmp_path):
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(Path(trained[1]).read_bytes()[:5000])
    with pytest.raises(
        ValueError, match='cut.pth is not a complete PyTorch checkpoint'
    ):
        export_student(read_config(tmp_path), str(cut), str(tmp_path / 'out.pth'))
    assert not (tmp_path / 'out.pth').exists()


def test_checkpoint_of_another_config_is_refused(trained, tmp_path):
    cfg = read_config(tmp_path, **{'model.student.backbone.widen_factor': 2})
    cfg.model.student.head.in_channels = 128
    with pytest.raises(
        ValueError, match='not trained with this config.*of another shape'
    ):
        export_student(cfg, trained[1], str(tmp_path / 'out.pth'))
    assert not (tmp_path / 'out.pth').exists()


def test_plain_config_and_own_output_are_refused(trained, tmp_path):
    plain = student_config(read_config(tmp_path))
    with pytest.raises(ValueError, match='a plain model already'):
        export_student(plain, trained[1], str(tmp_path / 'out.pth'))
    with pytest.raises(ValueError, match='OUT is the checkpoint itself'):
        export_student(read_config(tmp_path), trained[1], trained[1])


def test_nothing_but_an_earlier_export_is_overwritten(trained, tmp_path):
    cfg, checkpoint = read_config(tmp_path), trained[1]
    mine = tmp_path / 'mine.py'
    mine.write_text('a = 1\n')
    for out, message in (
        (tmp_path / 'mine.pth', 'would overwrite .*mine.py'),
        (tmp_path / 'student.py', 'OUT is the checkpoint to write'),
        (tmp_path, 'OUT is the checkpoint to write'),
    ):
        with pytest.raises(ValueError, match=message):
            export_student(cfg, checkpoint, str(out))
    assert mine.read_text() == 'a = 1\n'
    assert [path.name for path in tmp_path.iterdir()] == ['mine.py']
    for _ in range(2):
        export_student(cfg, checkpoint, str(tmp_path / 'student.pth'))


@pytest.mark.parametrize('kind', ['training checkpoint', 'another export', 'text'])
def test_another_checkpoint_is_not_overwritten(kind, exported, trained, tmp_path):
    out = tmp_path / 'best.pth'
    if kind == 'text':
        out.write_text('no checkpoint')
    elif kind == 'another export':
        other = torch.load(exported[0], weights_only=False)
        other['meta']['cfg'] = other['meta']['cfg'].replace('depth=10', 'depth=16')
        torch.save(other, out)
    else:
        shutil.copy(Path(trained[1]).with_name('epoch_1.pth'), out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match='best.pth is another file than an earlier'):
        export_student(read_config(tmp_path), trained[1], str(out))
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ['best.pth']


def plain_files(tmp_path, cfg, model):
    """A plain config and the weights of a model, as a checkpoint."""
    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    cfg.log_level = 'ERROR'
    return configure_run(cfg, work_dir=str(tmp_path)), str(path)


def digits_config(path, **options):
    return load_config(str(REPO / 'configs/digits' / path), options)


@pytest.mark.parametrize('kind', ['plain', 'distilled'])
@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'backbone.widen_factor': 2, 'head.in_channels': 128},
            r'of another shape|backbone',
        ),
        ({'backbone.depth': 16}, r'unknown \(backbone.groups'),
        (
            {'head.num_classes': 7},
            r'2 of another shape \(head.fc.bias \(7,\) instead of \(10,\)',
        ),
    ],
    ids=['wider', 'deeper', 'other classes'],
)
def test_weights_of_another_model_are_not_scored(kind, options, message, tmp_path):
    student = 'model.student.' if kind == 'distilled' else 'model.'
    name = {'plain': 'wrn10-1_digits.py', 'distilled': 'frskd_wrn10-1_digits.py'}[kind]
    other = digits_config(name, **{student + key: v for key, v in options.items()})
    cfg, weights = plain_files(tmp_path, digits_config(name), build_model(other))
    with pytest.raises(ValueError, match=message):
        evaluate(cfg, weights)


def test_strategies_do_not_score_weights_of_another_model(tmp_path):
    """FlexibleRunner has no model before it starts."""
    options = {'runner_type': 'FlexibleRunner'}
    cfg = digits_config('wrn10-1_digits.py', **options)
    cfg.test_dataloader.dataset.indices = 20
    model = build_model(cfg)
    other = digits_config(
        'wrn10-1_digits.py', **options, **{'model.head.num_classes': 7}
    )
    assert 'accuracy/top1' in evaluate(*plain_files(tmp_path, cfg, model))
    with pytest.raises(ValueError, match='another model'):
        evaluate(*plain_files(tmp_path, other, model))


def test_weights_of_another_task_are_not_scored(tmp_path):
    classifier = build_model(digits_config('wrn10-1_digits.py'))
    cfg = digits_config('fcn_r18-c16_digit-scenes.py')
    with pytest.raises(ValueError, match=r'missing \(backbone.*unknown \(backbone'):
        evaluate(*plain_files(tmp_path, cfg, classifier))


@pytest.mark.parametrize('kind', ['none in the file', 'none in the config'])
def test_auxiliary_heads_do_not_matter_to_a_score(kind, tmp_path):
    cfg = digits_config('fcn_r18-c16_digit-scenes.py')
    cfg.test_dataloader.dataset.indices = 2
    head = dict(cfg.model.decode_head, in_index=2, in_channels=64)
    head['input_transform'] = None
    with_head = deepcopy(cfg)
    with_head.model.auxiliary_head = head
    model = build_model(with_head if kind == 'none in the config' else cfg)
    if kind == 'none in the file':
        cfg = with_head
    assert 'mIoU' in evaluate(*plain_files(tmp_path, cfg, model))


def test_weights_that_a_module_converts_are_scored(tmp_path):
    """A vision transformer resizes its position embeddings to another image size."""

    def transformer(img_size, num_classes=10):
        cfg = digits_config('wrn10-1_digits.py')
        sizes = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16)
        cfg.model.backbone = dict(
            type='VisionTransformer', arch=sizes, img_size=img_size, patch_size=8
        )
        cfg.model.neck = None
        cfg.model.head.update(in_channels=16, num_classes=num_classes)
        cfg.test_dataloader.dataset.indices = 20
        return cfg

    model = build_model(transformer(16))
    cfg, weights = plain_files(tmp_path, transformer(24), model)
    assert 'accuracy/top1' in evaluate(cfg, weights)
    cfg, weights = plain_files(tmp_path, transformer(24, num_classes=7), model)
    with pytest.raises(ValueError, match='another model.*: 2 of another shape .head'):
        evaluate(cfg, weights)


def test_weights_that_a_model_computes_itself_are_no_obstacle():
    """Swin v2 takes them out of any state dict that it loads, so they are missing."""
    arch = dict(
        embed_dims=8,
        depths=[1] * 4,
        num_heads=[1, 1, 2, 2],
        extra_norm_every_n_blocks=0,
    )
    backbone = dict(
        type='SwinTransformerV2', arch=arch, img_size=64, window_size=[4, 4, 4, 2]
    )
    head = dict(type='LinearClsHead', num_classes=3, in_channels=64)
    neck = dict(type='GlobalAveragePooling')
    model = dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head)
    cfg = Config(dict(default_scope='mmpretrain', model=model))
    trained = build_model(cfg).eval()
    exported = load_student(cfg, trained.state_dict(), 'weights').eval()
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(exported(image), trained(image), rtol=0, atol=0)


def test_another_method_s_checkpoint_is_scored_by_its_student(tmp_path):
    cfg = digits_config('frskd_wrn10-1_digits.py')
    cfg.test_dataloader.dataset.indices = 20
    other = deepcopy(cfg)
    other.model.distiller.neck.width = 1
    cfg, weights = plain_files(tmp_path, cfg, build_model(other))
    assert 'accuracy/top1' in evaluate(deepcopy(cfg), weights)
    with pytest.raises(ValueError, match='another model.*of another shape .distiller'):
        evaluate(cfg, weights, self_teacher=True)


def test_plain_config_is_free_of_what_needs_the_distiller(tmp_path):
    cfg = read_config(tmp_path)
    hooks, dataset = list(cfg.custom_hooks), cfg.train_dataloader.dataset
    cfg.custom_hooks = [*hooks, dict(type='frskd_mm.AggregatedPredictionHook')]
    cfg.train_dataloader.collate_fn = dict(
        type='frskd_mm.collate_pairs', collate='pseudo_collate'
    )
    pairs = dict(type='frskd_mm.PairDataset', partner='same_image', dataset=dataset)
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=pairs)
    cfg.custom_imports = dict(imports=['json', 'frskd_mm'], allow_failed_imports=True)
    plain = student_config(cfg)
    assert plain.custom_hooks == hooks
    assert plain.train_dataloader.collate_fn == dict(type='pseudo_collate')
    assert plain.train_dataloader.dataset == dict(
        type='RepeatDataset', times=2, dataset=dataset
    )
    assert plain.custom_imports == dict(imports=['json'], allow_failed_imports=True)
    loader = Runner.build_dataloader(plain.train_dataloader, seed=0)
    assert len(next(iter(loader))['inputs']) == cfg.train_dataloader.batch_size


def test_command_lines(exported, trained, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        ).stdout

    out = str(tmp_path / 'student.pth')
    printed = run('tools/export_student.py', CONFIG, trained[1], out)
    assert out in printed
    printed = run('tools/test.py', CONFIG, out, '--work-dir', str(tmp_path / 'test'))
    assert 'accuracy/top1: ' in printed.splitlines()[-1]
