"""predict, visualize and describe on the three tasks, with checkpoints of one step."""

import json
import random
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS, DefaultScope
from mmengine.runner import save_checkpoint
from small_runs import DROPOUT, forget_the_last_run, run

from frskd_mm.commands.main import main
from frskd_mm.engine import export_student, load_config, wrap
from frskd_mm.engine.predict import Predictor, as_record, find_images
from frskd_mm.hooks import InsideHook
from frskd_mm.lab.describe import describe, describe_text
from frskd_mm.registry import DATASETS
from frskd_mm.utils.model import build_model
from frskd_mm.visualization.images import pixels
from frskd_mm.visualization.inside import look_inside, readable_levels
from frskd_mm.visualization.predictions import (
    draw_disagreement,
    draw_prediction,
    unmatched,
)

CONFIGS = {
    'cls': 'frskd_mm::digits/frskd_wrn10-1_digits.py',
    'seg': 'frskd_mm::digits/frskd_fcn_r18-c16_digit-scenes.py',
    'det': 'frskd_mm::digits/frskd_retinanet_r18-c16_digit-scenes.py',
}
FEW = {
    'cls': {'test_dataloader.dataset.num_per_class': 2},
    'seg': {'test_dataloader.dataset.num_scenes': 3},
    'det': {'test_dataloader.dataset.num_scenes': 3},
}


def options(task):
    return ['--cfg-options', *(f'{key}={value}' for key, value in FEW[task].items())]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Checkpoints of untrained models, and images; nobody here changes them."""
    folder = tmp_path_factory.mktemp('made')
    for task, path in CONFIGS.items():
        torch.manual_seed(0)
        cfg = load_config(path)
        model = build_model(cfg)
        model.init_weights()
        checkpoint = str(folder / f'{task}.pth')
        save_checkpoint(dict(state_dict=model.state_dict(), meta={}), checkpoint)
        export_student(cfg, checkpoint, str(folder / f'{task}_student.pth'))
    images = folder / 'images' / 'inner'
    images.mkdir(parents=True)
    for number, name in ((3, 'a.png'), (5, 'inner/a.jpg')):
        image = np.full((90, 120, 3), 40, np.uint8)
        cv2.putText(image, str(number), (30, 75), 0, 2.5, (220, 180, 90), 6)
        cv2.imwrite(str(images.parent / name), image)
    return folder


def call(monkeypatch, capsys, *arguments):
    """Return the exit code and what was printed."""
    monkeypatch.setattr('sys.argv', ['frskd', *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize('exported', [False, True], ids=['training', 'exported'])
@pytest.mark.parametrize('task', CONFIGS)
def test_predict_images_and_folders(
    task, exported, made, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    config = made / f'{task}_student.py' if exported else CONFIGS[task]
    checkpoint = made / (f'{task}_student.pth' if exported else f'{task}.pth')
    given = ['predict', config, checkpoint, made / 'images', '--score-thr', '0']
    code, out, err = call(monkeypatch, capsys, *given, *options(task), '--out', 'out')
    assert code == 0, err
    found = json.loads(Path('out/predictions.json').read_text())['images']
    assert [Path(entry['image']).name for entry in found] == ['a.png', 'a.jpg']
    assert [entry['picture'] for entry in found] == ['a.png', 'a-2.png']
    for entry in found:
        assert cv2.imread(f'out/{entry["picture"]}').std() > 0
        assert entry['image'] in out
    first = found[0]
    if task == 'cls':
        scores = [one['score'] for one in first['classes']]
        assert len(scores) == 5
        assert scores == sorted(scores, reverse=True)
        assert first['classes'][0]['name'].isdigit()
    elif task == 'seg':
        assert sum(region['share'] for region in first['regions']) == pytest.approx(1)
        labels = cv2.imread('out/a_labels.png', cv2.IMREAD_UNCHANGED)
        assert labels.shape == (90, 120)  # the file's, not that of the model's input
        shares = {one['label']: one['share'] for one in first['regions']}
        for label, share in shares.items():
            assert (labels == label).mean() == pytest.approx(share, abs=0.02)
    else:
        assert first['objects']
        for one in first['objects']:
            left, top, right, bottom = one['box']
            assert 0 <= left <= right <= 120
            assert 0 <= top <= bottom <= 90
        # In pixels of the file, which is larger than the model's 64x64.
        assert max(one['box'][2] for one in first['objects']) > 70


def test_rotated_boxes_are_given_in_pixels_of_the_file():
    """Five columns, of which the last is an angle."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    sample = DetDataSample(metainfo=dict(ori_shape=(10, 20)))
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[5.0, 6.0, 4.0, 2.0, 0.5]]),
        scores=torch.tensor([0.9]),
        labels=torch.tensor([0]),
    )
    model = SimpleNamespace(dataset_meta={})
    for size, expected in (
        (None, [5.0, 6.0, 4.0, 2.0, 0.5]),
        ((20, 40), [10.0, 12.0, 8.0, 4.0, 0.5]),
    ):
        (found,) = as_record(model, sample, size=size)['objects']
        assert found['box'] == expected


@pytest.mark.parametrize('command', ['predict', 'visualize'])
def test_images_that_are_read_are_not_written_over(
    command, made, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    photo = tmp_path / 'photo.png'
    photo.write_bytes((made / 'images/a.png').read_bytes())
    before = photo.read_bytes()
    given = [command, CONFIGS['cls'], made / 'cls.pth', 'photo.png', '--out', '.']
    code, _, err = call(monkeypatch, capsys, *given, *options('cls'))
    assert code != 0
    assert 'photo.png is an image that is read' in err
    assert photo.read_bytes() == before


def test_an_image_may_be_called_like_another_s_label_map(
    made, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path('in').mkdir()
    for name in ('a.png', 'a_labels.png'):
        Path('in', name).write_bytes((made / 'images/a.png').read_bytes())
    given = ['predict', CONFIGS['seg'], made / 'seg.pth', 'in', '--out', 'out']
    code, _, err = call(monkeypatch, capsys, *given, *options('seg'))
    assert code == 0, err
    found = json.loads(Path('out/predictions.json').read_text())['images']
    files = [entry[key] for entry in found for key in ('labels', 'picture')]
    assert len(set(files)) == 4
    assert cv2.imread('out/a_labels.png', cv2.IMREAD_UNCHANGED).ndim == 2


def test_an_image_that_cannot_be_read_does_not_end_the_others(
    made, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    whole = (made / 'images/a.png').read_bytes()
    Path('in').mkdir()
    for name, content in (('a', whole), ('b', whole[:200]), ('c', whole)):
        Path(f'in/{name}.png').write_bytes(content)
    given = ['predict', CONFIGS['cls'], made / 'cls.pth', 'in', '--out', 'out']
    code, out, _ = call(monkeypatch, capsys, *given, *options('cls'))
    assert code == '1 of 3 images could not be read; see above.'
    assert 'in/b.png is damaged' in out
    first, damaged, last = json.loads(Path('out/predictions.json').read_text())[
        'images'
    ]
    assert first['classes'] == last['classes']
    assert damaged == dict(
        image='in/b.png', error='in/b.png is damaged: OpenCV cannot read it.'
    )


def test_predictions_are_kept_when_a_user_stops(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    read = Predictor.read

    def stop_at_the_second(self, path):
        if path.endswith('.jpg'):
            raise KeyboardInterrupt
        return read(self, path)

    monkeypatch.setattr(Predictor, 'read', stop_at_the_second)
    images = made / 'images'
    given = ['predict', CONFIGS['cls'], made / 'cls.pth', images, '--out', 'out']
    with pytest.raises(KeyboardInterrupt):
        call(monkeypatch, capsys, *given, *options('cls'))
    (found,) = json.loads(Path('out/predictions.json').read_text())['images']
    assert found['image'] == str(images / 'a.png')


def test_a_folder_s_name_may_have_brackets(made, tmp_path):
    folder = tmp_path / 'photos[2020]'
    folder.mkdir()
    (folder / 'a.png').write_bytes((made / 'images/a.png').read_bytes())
    assert find_images([str(folder)]) == [str(folder / 'a.png')]


def test_training_checkpoint_and_export_predict_alike(made):
    found = []
    for config, checkpoint in (
        (CONFIGS['cls'], made / 'cls.pth'),
        (str(made / 'cls_student.py'), made / 'cls_student.pth'),
    ):
        predictor = Predictor(load_config(config, FEW['cls']), str(checkpoint))
        assert not hasattr(predictor.model, 'distiller')
        seen = predictor.read(str(made / 'images/a.png'))
        assert seen.packed['inputs'].shape == (3, 24, 24)  # as the test set's
        found.append(predictor.predict(seen).pred_score)
    assert torch.equal(*found)


def test_an_image_of_the_test_set_is_predicted_as_in_a_test(made):
    """A file with the same pixels, in its own channel order, gives the same."""
    predictor = Predictor(
        load_config(CONFIGS['seg'], FEW['seg']), str(made / 'seg.pth')
    )
    seen = predictor.take(1)
    rgb = seen.packed['inputs'].permute(1, 2, 0).numpy()
    assert np.ptp(rgb, axis=2).any()  # coloured
    path = str(made / 'scene.png')
    cv2.imwrite(path, rgb[..., ::-1])
    again = predictor.read(path)
    assert torch.equal(again.packed['inputs'], seen.packed['inputs'])
    np.testing.assert_array_equal(pixels(again, predictor.is_bgr)[1], rgb)
    ours, theirs = predictor.predict(again), predictor.predict(seen)
    assert torch.equal(ours.pred_sem_seg.data, theirs.pred_sem_seg.data)


@pytest.mark.parametrize('task', CONFIGS)
def test_visualize_chosen_and_own_images(task, made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for chosen in (['--indices', 0, 2], [made / 'images/a.png']):
        given = ['visualize', CONFIGS[task], made / f'{task}.pth', *chosen]
        code, out, err = call(monkeypatch, capsys, *given, *options(task), '--out', 'o')
        assert code == 0, err
        # Host libraries print remarks of their own when they are imported.
        written = [line for line in out.splitlines() if line.endswith('.png')]
        assert len(written) == len(chosen) - ('--indices' in chosen)
        for path in written:
            assert len(np.unique(cv2.imread(path).reshape(-1, 3), axis=0)) > 500
    names = sorted(path.name for path in Path('o').iterdir())
    assert names == ['a.png', 'test_0.png', 'test_2.png']


@pytest.mark.parametrize('task', CONFIGS)
def test_the_picture_shows_what_each_of_the_two_predicts(task, made):
    cfg = load_config(CONFIGS[task], FEW[task])
    predictor = Predictor(cfg, str(made / f'{task}.pth'), self_teacher=True)
    seen = predictor.take(0)
    inside = look_inside(predictor.model, seen.packed)
    own = predictor.predict(seen)
    with predictor.model.as_self_teacher():
        other = predictor.predict(seen)
    if task == 'cls':
        assert torch.equal(inside.student.pred_score, own.pred_score)
        assert torch.equal(inside.teacher.pred_score, other.pred_score)
        assert not torch.equal(own.pred_score, other.pred_score)
    elif task == 'seg':
        assert torch.equal(inside.student.pred_sem_seg.data, own.pred_sem_seg.data)
        assert torch.equal(inside.teacher.pred_sem_seg.data, other.pred_sem_seg.data)
        differ = (own.pred_sem_seg.data != other.pred_sem_seg.data).float().mean()
        image = pixels(seen, predictor.is_bgr)[1]
        picture, words = draw_disagreement(
            predictor.model, image, inside.student, inside.teacher
        )
        assert words == f'{100 * float(differ):.1f} % of the pixels differ'
        changed = (picture != (0.5 * image).astype(np.uint8)).any(axis=2)
        assert changed.mean() == pytest.approx(float(differ), abs=0.01)
    else:
        for found, expected in ((inside.student, own), (inside.teacher, other)):
            boxes = found.pred_instances.bboxes
            assert torch.equal(boxes, expected.pred_instances.bboxes)
    for ours, theirs in inside.maps:
        assert ours.shape == theirs.shape
        assert not torch.equal(ours, theirs)


def test_boxes_are_matched_by_place_and_class():
    from mmengine.structures import InstanceData

    def instances(boxes, labels):
        return InstanceData(bboxes=torch.tensor(boxes), labels=torch.tensor(labels))

    box, near, far = [0.0, 0, 10, 10], [0.0, 0, 10, 8], [0.0, 0, 10, 4]
    own = instances([box, box, box], [1, 2, 3])
    other = instances([near, far, near], [1, 2, 4])
    assert unmatched(own, other) == [1, 2]
    assert unmatched(own, other[:0]) == [0, 1, 2]
    assert unmatched(other[:0], own) == []


@pytest.mark.parametrize('side', [96, 300])
def test_the_truth_is_drawn_on_images_of_any_size(side):
    values = {'test_dataloader.dataset.scene.size': side, **FEW['det']}
    cfg = load_config(CONFIGS['det'], values)
    cfg.test_dataloader.dataset.pipeline[1].scale = (side, side)
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    model = build_model(cfg)
    model.dataset_meta = dataset.metainfo
    packed = dataset[0]
    image = packed['inputs'].permute(1, 2, 0).numpy()
    drawn = draw_prediction(model, image, packed['data_samples'], truth=True)
    times = drawn.shape[0] // side
    plain = np.repeat(np.repeat(image, times, axis=0), times, axis=1)
    x1, y1, x2, y2 = packed['data_samples'].gt_instances.bboxes.tensor[0].int().tolist()
    assert (drawn != plain)[y1 * times : y2 * times, x1 * times : x2 * times].any()


def test_coarse_levels_are_left_out():
    maps = [(torch.ones(n, n), torch.ones(n, n)) for n in (8, 4, 3, 1)]
    assert readable_levels(maps) == ([0, 1], [2, 3])
    assert readable_levels(maps[2:]) == ([0], [1])  # the finest is always drawn


WRONG = [
    (['predict', 'CONFIG', 'CKPT', 'no.png'], 'There is no image no.png'),
    (['predict', 'CONFIG', 'CKPT', 'empty'], 'The folder empty has no images'),
    (['predict', 'CONFIG', 'CKPT', 'text.png'], 'text.png is no image that OpenCV'),
    (['predict', 'CONFIG', 'no.pth', 'IMAGE'], 'There is no checkpoint no.pth'),
    (['predict', 'CONFIG', 'OTHER', 'IMAGE'], 'is of another model than the config'),
    (['predict', 'CONFIG', 'CKPT', 'IMAGE', '--score-thr', '3'], 'from 0 to 1, not 3'),
    (['predict', 'CONFIG', 'CKPT', 'IMAGE', '--size', '0', '9'], '1 or more, not 0'),
    (['predict', 'CONFIG', 'CKPT', 'IMAGE', '--out', 'text.png'], 'is a file'),
    (['visualize', 'CONFIG', 'STUDENT'], 'holds the student alone'),
    (['visualize', 'PLAIN', 'STUDENT'], 'has no self-teacher'),
    (['visualize', 'CONFIG', 'CKPT', '--indices', '99'], 'images 0 to 19, not 99'),
    (['visualize', 'CONFIG', 'CKPT', 'IMAGE', '--indices', '9'], 'leave the files out'),
    (['describe', 'CONFIG', '--method', 'frskd'], 'distilled already'),
    (['describe', 'CONFIG', '--batch-size', '1'], '--batch-size must be 2 or more'),
    (['describe', 'PLAIN', '--method', 'frskdd'], 'Did you mean frskd?'),
]


@pytest.mark.parametrize(('given', 'message'), WRONG, ids=lambda case: case[-1])
def test_wrong_input_ends_with_a_sentence(
    given, message, made, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text.png').write_text('no picture')
    names = dict(
        CONFIG=CONFIGS['cls'],
        PLAIN='frskd_mm::digits/wrn10-1_digits.py',
        CKPT=made / 'cls.pth',
        STUDENT=made / 'cls_student.pth',
        OTHER=made / 'seg.pth',
        IMAGE=made / 'images/a.png',
    )
    arguments = [names.get(word, word) for word in given]
    if arguments[0] == 'visualize':
        arguments += options('cls')
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in err
    assert 'Traceback' not in out + err


def test_a_damaged_image_is_named(made, tmp_path):
    path = tmp_path / 'half.png'
    path.write_bytes((made / 'images/a.png').read_bytes()[:200])
    assert find_images([str(path)]) == [str(path)]  # it begins as one
    predictor = Predictor(
        load_config(CONFIGS['cls'], FEW['cls']), str(made / 'cls.pth')
    )
    with pytest.raises(ValueError, match='half.png is damaged'):
        predictor.read(str(path))


TRAINS = {
    'student.loss': {'student'},
    'self_teacher.loss': {'self-teacher'},
    'loss_kd': {'student'},
    'loss_at': {'backbone'},
}


def test_describe_says_which_term_trains_what(monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, 'describe', CONFIGS['cls'])
    assert code == 0, err
    rows = dict(re.findall(r'^\| (\S*loss\S*) +\| (.+?) +\|$', out, re.MULTILINE))
    assert set(rows) == set(TRAINS)
    parts = {name: set(row.split(', ')) for name, row in rows.items()}
    assert parts['student.loss'] == parts['loss_kd'] == {'backbone', 'head'}
    assert parts['loss_at'] == {'backbone'}
    teacher = {'distiller.self_teacher.neck', 'distiller.self_teacher.twin.head'}
    assert parts['self_teacher.loss'] == teacher
    # As if the self-teacher were attached.
    attached = ['--cfg-options', 'model.distiller.detach_inputs=False']
    code, out, err = call(monkeypatch, capsys, 'describe', CONFIGS['cls'], *attached)
    (row,) = re.findall(r'^\| self_teacher.loss +\| (.+?) +\|$', out, re.MULTILINE)
    assert set(row.split(', ')) == teacher | {'backbone'}


@pytest.mark.parametrize(('method', 'times'), [('none', 1), ('ddgsd', 2), ('sla', 4)])
def test_describe_counts_what_a_method_shows_its_student(method, times, tmp_path):
    cfg = wrap(load_config('frskd_mm::digits/wrn10-1_digits.py'), method)
    macs = {
        name: int(count.replace(',', ''))
        for name, count in re.findall(
            r'^\| (in training|deployed|backbone) +\| \S* +\| [\d,]+ +\| ([\d,]+) +\|',
            describe_text(describe(cfg)),
            re.M,
        )
    }
    assert macs['backbone'] == pytest.approx(times * macs['deployed'], rel=1e-3)
    assert macs['in training'] >= macs['backbone']


@pytest.mark.parametrize('task', ['seg', 'det'])
def test_describe_counts_parts_and_levels(task, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, 'describe', CONFIGS[task])
    assert code == 0, err
    model = build_model(load_config(CONFIGS[task]))
    numbers = {
        name: int(count.replace(',', ''))
        for name, count in re.findall(
            r'^\| (\S+|in training) +\| \S* +\| ([\d,]+) +\| [\d,]+ +\|', out, re.M
        )
    }
    student = sum(p.numel() for n, p in model.named_parameters() if 'distill' not in n)
    assert numbers['backbone'] == sum(p.numel() for p in model.backbone.parameters())
    assert numbers['deployed'] == student
    assert numbers['in training'] == sum(p.numel() for p in model.parameters())
    (levels,) = re.findall(r'## Levels\n\n(.+?)\n\n', out, re.DOTALL)
    shapes = model.distiller.task.feature_shapes(
        model, model.distiller.source, (64, 64)
    )
    for shape in shapes:
        assert 'x'.join(map(str, shape)) in levels
    (ratio,) = re.findall(r'^\| frskd_\S+ +\| [\d,]+ +\| ([\d.]+) +\|$', out, re.M)
    assert 1 < float(ratio) < 5


def test_describe_measures_a_plain_student_and_a_method(monkeypatch, capsys):
    plain = 'frskd_mm::digits/wrn10-1_digits.py'
    given = ['describe', plain, '--method', 'frskd-f', '--measure', '--batch-size', 2]
    code, out, err = call(monkeypatch, capsys, *given)
    assert code == 0, err
    assert '# frskd-f_wrn10-1_digits' in out
    assert 'loss_at' not in out
    (ratio,) = re.findall(
        r'^\| frskd-f_\S+( +\| [\d.,]+){3} +\| ([\d.]+) +\|$', out, re.M
    )
    assert float(ratio[1]) > 0
    code, out, err = call(monkeypatch, capsys, 'describe', plain)
    assert code == 0, err
    assert 'distiller' not in out
    assert '## Levels' not in out


def backend(name):
    package = {'Tensorboard': 'tensorboard', 'MLflow': 'mlflow', 'Wandb': 'wandb'}
    if name in package:
        pytest.importorskip(package[name])
    return dict(type=f'{name}VisBackend')


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = Path(folder).rglob('events.out.tfevents*')
    events = EventAccumulator(str(path), size_guidance=dict(images=0)).Reload()
    return {tag: len(events.Images(tag)) for tag in events.Tags()['images']}


@pytest.mark.parametrize('name', ['Local', 'Tensorboard', 'MLflow', 'Wandb'])
def test_the_hook_reaches_every_backend(name, tmp_path, monkeypatch):
    chosen = backend(name)
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    if name == 'MLflow':
        chosen['save_dir'] = str(tmp_path / 'mlruns')
    hook = dict(type='frskd_mm.InsideHook', indices=(1,), interval=2)
    settings = {
        'custom_hooks': [hook],
        'visualizer': dict(type='UniversalVisualizer', vis_backends=[chosen]),
        'train_cfg.val_interval': 1,
        'train_cfg.max_epochs': 2,
    }
    run(tmp_path / 'run', settings)
    if name == 'Local':
        (path,) = tmp_path.rglob('vis_image/inside_1_2.png')
        assert cv2.imread(str(path)).std() > 0
    elif name == 'Tensorboard':
        assert read_tensorboard(tmp_path) == {'inside_1': 1}
    elif name == 'MLflow':
        (path,) = tmp_path.rglob('artifacts/inside_1_2.png')
        assert cv2.imread(str(path)).std() > 0
    else:
        (path,) = tmp_path.rglob('media/images/inside_1_*.png')
        assert cv2.imread(str(path)).std() > 0


@TRANSFORMS.register_module()
class DrawsNumbers:
    """A step of a pipeline that draws from every generator."""

    def __call__(self, results):
        random.random(), np.random.rand(), torch.rand(1)
        return results


def test_the_hook_changes_nothing_of_the_training(tmp_path):
    """Although its images draw, and the training draws after it."""
    weights, drawn_next = [], []
    for hooks in ([], [dict(type='frskd_mm.InsideHook', num_images=1)]):
        settings = {
            **DROPOUT,
            'custom_hooks': hooks,
            'train_cfg.val_interval': 1,
            'val_dataloader.dataset.pipeline': [
                dict(type='DrawsNumbers'),
                dict(type='PackInputs'),
            ],
            'randomness': dict(seed=0),
        }
        runner = run(tmp_path / str(len(hooks)), settings)
        weights.append(runner.model.state_dict())
        drawn_next.append([random.random(), np.random.rand(), torch.rand(1).item()])
    assert drawn_next[0] == drawn_next[1]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_the_hook_refuses_a_model_without_a_self_teacher(tmp_path):
    settings = {'custom_hooks': [dict(type='frskd_mm.InsideHook')]}
    with pytest.raises(TypeError, match='no self-teacher that refines'):
        run(tmp_path, settings, path='configs/digits/wrn10-1_digits.py')
    with pytest.raises(ValueError, match='num_images'):
        InsideHook(num_images=0)
    forget_the_last_run()
