"""Damaged and odd samples are named, for all tasks, or left out."""

import copy
import json
import pickle
import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.logging import MMLogger
from mmengine.registry import TRANSFORMS, DefaultScope
from mmengine.runner import Runner
from PIL import Image

from frskd_mm.engine import configure_run, evaluate, load_config, train
from frskd_mm.engine.samples import (
    SKIPPED_FILE,
    Collate,
    SampleError,
    _watched_class,
    report_skipped,
    watch_samples,
)

PLAIN = 'configs/digits/wrn10-1_digits.py'
NUMBER = 6
BAD = 3
HEIGHT, WIDTH = 24, 32
READ = dict(type='LoadImageFromFile')
PIPELINES = {
    'mmpretrain': [READ, dict(type='PackInputs')],
    'mmseg': [READ, dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    'mmdet': [
        READ,
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs'),
    ],
}


@TRANSFORMS.register_module()
class BrokenTransform:
    """Cannot take the sample of a number."""

    def __init__(self, number):
        self.number = number

    def __call__(self, results):
        if results['sample_idx'] == self.number:
            raise KeyError('what it needs')
        return results


@TRANSFORMS.register_module()
class GreySample:
    """Takes two channels from the sample of a number."""

    def __init__(self, number):
        self.number = number

    def __call__(self, results):
        if results['sample_idx'] == self.number:
            results['img'] = results['img'][..., :1]
        return results


def write_data(folder, host):
    """Write images and annotations, and return the data set's config."""
    rng = np.random.default_rng(0)
    (folder / 'img').mkdir(parents=True)
    (folder / 'label').mkdir()
    for index in range(NUMBER):
        image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(str(folder / f'img/{index}.jpg'), image)
        label = np.zeros((HEIGHT, WIDTH), np.uint8)
        label[:, index:] = 1
        label[0] = 255
        cv2.imwrite(str(folder / f'label/{index}.png'), label)
    data_list = [
        dict(
            img_path=f'{index}.jpg',
            height=HEIGHT,
            width=WIDTH,
            img_id=index,
            instances=[dict(bbox=[2, 3, 20, 22], bbox_label=1, ignore_flag=0)],
        )
        for index in range(NUMBER)
    ]
    if host == 'mmpretrain':
        lines = [f'{index}.jpg {index % 2}' for index in range(NUMBER)]
        (folder / 'ann').write_text('\n'.join(lines))
    else:
        (folder / 'ann').write_text(json.dumps(dict(metainfo={}, data_list=data_list)))
        (folder / 'ann').rename(folder / 'ann.json')
    kinds = {
        'mmpretrain': dict(
            type='CustomDataset', ann_file='ann', data_prefix='img', with_label=True
        ),
        'mmseg': dict(
            type='BaseSegDataset',
            data_prefix=dict(img_path='img', seg_map_path='label'),
        ),
        'mmdet': dict(
            type='BaseDetDataset', ann_file='ann.json', data_prefix=dict(img_path='img')
        ),
    }
    return dict(
        **kinds[host],
        data_root=str(folder),
        metainfo=dict(classes=('a', 'b')),
        pipeline=copy.deepcopy(PIPELINES[host]),
    )


def watched(dataset, host, log_dir, loader='train_dataloader', workers=0, **cfg):
    """Build a watched data loader as a runner's loop does."""
    dataloader = dict(
        dataset=dataset,
        batch_size=2,
        num_workers=workers,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'),
    )
    model = dict(data_preprocessor=dict(mean=[0.0, 0.0, 0.0]))
    cfg = Config({loader: dataloader, 'default_scope': host, 'model': model, **cfg})
    # What a loop sees of the runner.
    runner = SimpleNamespace(
        build_dataloader=Runner.build_dataloader, log_dir=str(log_dir)
    )
    watch_samples(runner, cfg)
    with DefaultScope.overwrite_default_scope(host):
        return runner.build_dataloader(cfg[loader], seed=0)


def rewrite_annotations(folder, change):
    path = folder / 'ann.json'
    content = json.loads(path.read_text())
    change(content['data_list'][BAD]['instances'][0])
    path.write_text(json.dumps(content))


def png(folder, array, **options):
    Image.fromarray(array).save(folder / f'label/{BAD}.png', **options)


def labels(value=0, height=HEIGHT, dtype=np.uint8):
    return np.full((height, WIDTH), value, dtype)


def image_file(folder):
    return folder / f'img/{BAD}.jpg'


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


GONE = 'No such file'
IMAGE_DAMAGE = {
    'truncated': (lambda folder: cut(image_file(folder)), ''),
    'zero bytes': (lambda folder: image_file(folder).write_bytes(b''), ''),
    'text': (lambda folder: image_file(folder).write_text('hello'), ''),
    'missing': (lambda folder: image_file(folder).unlink(), GONE),
}
SEG_DAMAGE = {
    'a label of another size': (
        lambda folder: png(folder, labels(height=HEIGHT - 2)),
        'label map is of 22x32 pixels, but the image of 24x32',
    ),
    'a label with colours': (
        lambda folder: png(folder, np.zeros((HEIGHT, WIDTH, 3), np.uint8)),
        r'holds colours, not one class a pixel',
    ),
    'a palette label with other classes': (
        lambda folder: (
            Image.fromarray(labels(7)).convert('P').save(folder / f'label/{BAD}.png')
        ),
        r'classes \[7\] are out of range',
    ),
    'a 16-bit label': (
        lambda folder: png(folder, labels(256, dtype=np.uint16)),
        'has 16 bits and values up to 256',
    ),
    'a class out of range': (
        lambda folder: png(folder, labels(2)),
        r'classes \[2\] are out of range: the data set has 2',
    ),
    'an empty label': (
        lambda folder: (folder / f'label/{BAD}.png').write_bytes(b''),
        'UnidentifiedImageError',
    ),
    'a missing label': (
        lambda folder: (folder / f'label/{BAD}.png').unlink(),
        GONE,
    ),
}
DET_DAMAGE = {
    'a box outside the image': (
        lambda instance: instance.update(bbox=[40, 2, 50, 9]),
        r'Box 0, \[40, 2, 50, 9\], lies outside of the image of 32x24',
    ),
    'a box that ends before it begins': (
        lambda instance: instance.update(bbox=[9, 2, 5, 9]),
        'ends before it begins',
    ),
    'a box that is not a number': (
        lambda instance: instance.update(bbox=[float('nan'), 2, 9, 9]),
        'is not finite',
    ),
    'a box of two numbers': (lambda instance: instance.update(bbox=[1, 2]), ''),
    'a class out of range': (
        lambda instance: instance.update(bbox_label=2),
        r'classes \[2\] are out of range',
    ),
    'an empty annotation': (lambda instance: instance.clear(), 'KeyError'),
}
CASES = [
    *(
        (host, name, damage, message)
        for host in PIPELINES
        for name, (damage, message) in IMAGE_DAMAGE.items()
    ),
    *(('mmseg', name, *case) for name, case in SEG_DAMAGE.items()),
    *(
        ('mmdet', name, lambda f, c=change: rewrite_annotations(f, c), message)
        for name, (change, message) in DET_DAMAGE.items()
    ),
]


@pytest.mark.parametrize(
    ('host', 'damage', 'message'),
    [case[:1] + case[2:] for case in CASES],
    ids=[f'{case[0]}-{case[1]}' for case in CASES],
)
def test_a_bad_sample_is_named(host, damage, message, tmp_path):
    dataset = write_data(tmp_path / 'data', host)
    loader = None
    if message == GONE:  # mmseg lists the files that are there
        loader = watched(dataset, host, tmp_path)
    damage(tmp_path / 'data')
    loader = loader or watched(dataset, host, tmp_path)
    with pytest.raises(SampleError, match=message) as caught:
        list(loader)
    sentence = str(caught.value)
    assert f'Sample {BAD} of ' in sentence
    assert 'in train_dataloader' in sentence
    assert f'img/{BAD}.jpg' in sentence
    assert "bad_samples='skip'" in sentence
    # The others are as they are.
    good = [index for index in range(NUMBER) if index != BAD]
    assert all('inputs' in loader.dataset[index] for index in good)


def test_a_class_of_an_image_out_of_range_is_named(tmp_path):
    dataset = write_data(tmp_path / 'data', 'mmpretrain')
    path = tmp_path / 'data/ann'
    path.write_text(path.read_text().replace(f'{BAD}.jpg 1', f'{BAD}.jpg 2'))
    with pytest.raises(SampleError, match=rf'Sample {BAD} .*\[2\] are out of range'):
        list(watched(dataset, 'mmpretrain', tmp_path))


def test_other_channels_are_named(tmp_path):
    dataset = write_data(tmp_path / 'data', 'mmpretrain')
    dataset['pipeline'][0] = dict(type='LoadImageFromFile', color_type='unchanged')
    grey = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.imwrite(str(tmp_path / f'data/img/{BAD}.jpg'), grey)
    with pytest.raises(SampleError, match=rf'{BAD}.jpg.* 1 channel.* has 3 values'):
        list(watched(dataset, 'mmpretrain', tmp_path))


DIGITS = dict(type='frskd_mm.Digits', num_per_class=2, pipeline=[])
EMBEDDED = {
    'mmpretrain': ('frskd_mm.Digits', dict(num_per_class=2), []),
    'mmseg': (
        'frskd_mm.DigitScenesSeg',
        dict(num_scenes=6),
        [dict(type='LoadImageFromNDArray')],
    ),
    'mmdet': (
        'frskd_mm.DigitScenesDet',
        dict(num_scenes=6),
        [dict(type='LoadImageFromNDArray')],
    ),
}
PACK = dict(mmpretrain='PackInputs', mmseg='PackSegInputs', mmdet='PackDetInputs')


@pytest.mark.parametrize('host', EMBEDDED)
@pytest.mark.parametrize(
    ('transform', 'message'),
    [('BrokenTransform', "KeyError: 'what it needs'"), ('GreySample', '1 channel')],
)
def test_embedded_data_are_named_by_their_number(host, transform, message, tmp_path):
    kind, settings, read = EMBEDDED[host]
    pipeline = [*read, dict(type=transform, number=BAD), dict(type=PACK[host])]
    dataset = dict(type=kind, pipeline=pipeline, **settings)
    name = kind.partition('.')[2]
    with pytest.raises(SampleError, match=f'Sample {BAD} of {name} .*{message}'):
        list(watched(dataset, host, tmp_path))


@pytest.mark.parametrize('wrapper', ['RepeatDataset', 'ConcatDataset', 'PairDataset'])
def test_wrapped_data_are_named_too(wrapper, tmp_path):
    inner = write_data(tmp_path / 'data', 'mmpretrain')
    cut(image_file(tmp_path / 'data'))
    dataset = {
        'RepeatDataset': dict(type='RepeatDataset', times=2, dataset=inner),
        'ConcatDataset': dict(type='ConcatDataset', datasets=[inner, inner]),
        'PairDataset': dict(
            type='frskd_mm.PairDataset', partner='same_image', dataset=inner
        ),
    }[wrapper]
    loader = watched(dataset, 'mmpretrain', tmp_path)
    assert type(loader.dataset).__name__ == wrapper
    with pytest.raises(
        SampleError, match=rf'Sample {BAD} of CustomDataset .*{BAD}.jpg'
    ):
        list(loader)


def test_a_wrapped_set_s_own_ignored_label_is_ignored(tmp_path):
    inner = write_data(tmp_path / 'data', 'mmseg')
    for path in (tmp_path / 'data/label').iterdir():
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        label[label == 255] = 250
        cv2.imwrite(str(path), label)
    inner['ignore_index'] = 250
    dataset = dict(type='RepeatDataset', times=2, dataset=inner)
    assert len(list(watched(dataset, 'mmseg', tmp_path))) == NUMBER


def test_workers_hand_on_the_sentence(tmp_path):
    dataset = write_data(tmp_path / 'data', 'mmseg')
    cut(image_file(tmp_path / 'data'))
    with pytest.raises(SampleError) as caught:
        list(watched(dataset, 'mmseg', tmp_path, workers=1))
    assert str(caught.value).startswith(f'Sample {BAD} of BaseSegDataset in train')
    assert 'Original Traceback' in str(caught.value.__cause__)


@pytest.mark.parametrize('workers', [0, 2])
def test_bad_samples_are_left_out_and_listed(workers, tmp_path, caplog):
    dataset = write_data(tmp_path / 'data', 'mmseg')
    cut(image_file(tmp_path / 'data'))
    log_dir = tmp_path / 'log'
    loader = watched(dataset, 'mmseg', log_dir, workers=workers, bad_samples='skip')
    for _ in range(2):
        paths = [
            sample.img_path for batch in loader for sample in batch['data_samples']
        ]
        assert len(paths) == NUMBER
        assert not any(path.endswith(f'{BAD}.jpg') for path in paths)
    lines = (log_dir / SKIPPED_FILE).read_text().splitlines()
    # Once an epoch, and again where chance put it in its own place.
    assert len(lines) >= 2
    assert all(f'{BAD}.jpg' in line for line in lines)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    report_skipped(str(log_dir))
    times = f'could not be used and were left out: 1, {len(lines)} times'
    assert times in caplog.text
    assert f'{len(lines)} times: Sample {BAD} of' in caplog.text


def test_evaluations_take_what_their_metrics_take(tmp_path):
    dataset = write_data(tmp_path / 'seg', 'mmseg')
    resize = dict(type='Resize', scale=(WIDTH // 2, HEIGHT // 2))
    dataset['pipeline'].insert(1, resize)  # labels are read afterwards
    for test_mode in (False, True):  # mmseg's configs leave it out
        dataset['test_mode'] = test_mode
        loader = watched(dataset, 'mmseg', tmp_path, 'val_dataloader')
        assert len(list(loader)) == NUMBER // 2
    with pytest.raises(SampleError, match='24x32 pixels, but the image of 12x16'):
        list(watched(dataset, 'mmseg', tmp_path))
    dataset = write_data(tmp_path / 'det', 'mmdet')
    rewrite_annotations(tmp_path / 'det', lambda box: box.update(bbox=[9, 2, 9, 2]))
    assert len(list(watched(dataset, 'mmdet', tmp_path))) == 3
    rewrite_annotations(tmp_path / 'det', lambda box: box.update(bbox=[9, 2, 5, 2]))
    assert len(list(watched(dataset, 'mmdet', tmp_path, 'val_dataloader'))) == 3
    rewrite_annotations(tmp_path / 'det', lambda box: box.update(ignore_flag=1))
    assert len(list(watched(dataset, 'mmdet', tmp_path))) == 3


def test_evaluations_leave_nothing_out(tmp_path):
    dataset = write_data(tmp_path / 'data', 'mmseg')
    dataset['test_mode'] = True
    cut(image_file(tmp_path / 'data'))
    loader = watched(dataset, 'mmseg', tmp_path, 'val_dataloader', bad_samples='skip')
    with pytest.raises(SampleError, match='in val_dataloader.*leave nothing out'):
        list(loader)


def test_data_without_a_good_sample_end(tmp_path, monkeypatch):
    monkeypatch.setattr('frskd_mm.engine.samples.MAX_DRAWS', 5)
    dataset = write_data(tmp_path / 'data', 'mmseg')
    for path in (tmp_path / 'data/img').iterdir():
        cut(path)
    with pytest.raises(SampleError, match='5 samples of train_dataloader in a row'):
        next(iter(watched(dataset, 'mmseg', tmp_path, bad_samples='skip')))


@pytest.mark.parametrize('host', PIPELINES)
def test_good_samples_and_random_numbers_stay_as_they_are(host, tmp_path):
    cfg = write_data(tmp_path / 'data', host)
    cfg['pipeline'].insert(-1, dict(type='RandomFlip', prob=0.5))
    dataloader = dict(
        dataset=cfg,
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
        collate_fn=dict(type='pseudo_collate'),
    )
    with DefaultScope.overwrite_default_scope(host):
        plain = Runner.build_dataloader(dataloader, seed=0)
    mine = watched(cfg, host, tmp_path)
    mine.batch_sampler.sampler.shuffle = True
    mine.batch_sampler.sampler.seed = plain.batch_sampler.sampler.seed
    assert isinstance(mine.dataset, type(plain.dataset))
    for a, b in zip(plain, mine, strict=True):
        for one, other in zip(a['inputs'], b['inputs'], strict=True):
            assert one.shape == other.shape
    streams = []
    for loader in (plain, mine):
        np.random.seed(0)
        images = [image for batch in loader for image in batch['inputs']]
        streams.append((images, np.random.get_state()[1].copy()))
    assert all(map(torch.equal, streams[0][0], streams[1][0]))
    assert (streams[0][1] == streams[1][1]).all()


def test_a_watched_data_set_can_be_copied_and_pickled(tmp_path):
    loader = watched(write_data(tmp_path / 'data', 'mmseg'), 'mmseg', tmp_path)
    for twin in (
        copy.deepcopy(loader.dataset),
        pickle.loads(pickle.dumps(loader.dataset)),
    ):
        assert type(twin) is type(loader.dataset)
        assert torch.equal(twin[0]['inputs'], loader.dataset[0]['inputs'])


def test_samples_that_do_not_go_together_are_named(tmp_path):
    dataset = write_data(tmp_path / 'data', 'mmpretrain')
    cv2.imwrite(str(tmp_path / 'data/img/1.jpg'), np.zeros((8, 8, 3), np.uint8))
    loader = watched(dataset, 'mmpretrain', tmp_path)
    loader.collate_fn = Collate('train_dataloader', default_collate)
    with pytest.raises(SampleError, match=r'0.jpg \(3, 24, 32\); .*1.jpg \(3, 8, 8\)'):
        next(iter(loader))


@pytest.mark.parametrize(
    ('host', 'file', 'content'),
    [
        ('mmdet', 'ann.json', ''),
        ('mmdet', 'ann.json', '{"metainfo": {}, "data_list'),
        ('mmpretrain', 'ann', '0.jpg\n'),
    ],
)
def test_annotation_files_that_cannot_be_read_are_named(host, file, content, tmp_path):
    dataset = write_data(tmp_path / 'data', host)
    (tmp_path / 'data' / file).write_text(content)
    with pytest.raises(SampleError, match=f'train_dataloader .*cannot be read.*{file}'):
        watched(dataset, host, tmp_path)


def test_a_missing_annotation_file_is_named(tmp_path):
    dataset = write_data(tmp_path / 'data', 'mmdet')
    (tmp_path / 'data/ann.json').unlink()
    with pytest.raises(
        FileNotFoundError, match='data set of train_dataloader .*ann.js'
    ):
        watched(dataset, 'mmdet', tmp_path)


@pytest.mark.parametrize('part', ['head', 'decode_head'])
def test_data_with_more_classes_than_the_model_are_refused(part, tmp_path):
    model = dict(data_preprocessor=None, **{part: dict(num_classes=7)})
    with pytest.raises(
        ValueError, match=f'have 10 classes, but {part}.num_classes .* 7'
    ):
        watched(DIGITS, 'mmpretrain', tmp_path, model=model)


def test_an_unknown_policy_is_refused(tmp_path):
    with pytest.raises(ValueError, match='bad_samples of the config must be one of'):
        watched(DIGITS, 'mmpretrain', tmp_path, bad_samples='ignore')


def digits_run(repo, work_dir, transform=None, **options):
    cfg = load_config(
        str(repo / PLAIN),
        {
            'train_cfg.max_epochs': 1,
            'train_dataloader.dataset.num_per_class': 4,
            'train_dataloader.batch_size': 8,
            'train_dataloader.num_workers': 1,
            'val_dataloader.dataset.num_per_class': 2,
            'log_level': 'WARNING',
            **options,
        },
    )
    if transform is not None:
        cfg.train_dataloader.dataset.pipeline.insert(
            0, dict(type=transform, number=BAD)
        )
    return configure_run(cfg, str(work_dir))


def test_training_stops_at_a_bad_sample_or_goes_on(repo, tmp_path):
    cfg = digits_run(repo, tmp_path / 'stop', 'BrokenTransform')
    with pytest.raises(
        SampleError, match=f'Sample {BAD} of Digits in train_dataloader'
    ):
        train(cfg)
    cfg = digits_run(repo, tmp_path / 'skip', 'BrokenTransform', bad_samples='skip')
    runner = train(cfg)
    assert runner.iter == 5
    (listed,) = (tmp_path / 'skip').glob(f'*/{SKIPPED_FILE}')
    assert len(listed.read_text().splitlines()) == 1
    # The config is the user's.
    assert 'Watched' not in cfg.pretty_text
    metrics = evaluate(
        digits_run(repo, tmp_path / 'test'), str(tmp_path / 'skip/epoch_1.pth')
    )
    assert 'accuracy/top1' in metrics


def test_what_the_head_ignores_is_ignored(tmp_path):
    """mmseg's heads take an ignored label of their own."""
    dataset = write_data(tmp_path / 'data', 'mmseg')
    for path in (tmp_path / 'data/label').iterdir():
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        label[0, 0] = 250
        cv2.imwrite(str(path), label)
    with pytest.raises(SampleError, match='250'):
        list(watched(dataset, 'mmseg', tmp_path))
    for head in (dict(ignore_index=250), [dict(), dict(ignore_index=250)]):
        model = dict(student=dict(decode_head=head))
        loader = watched(dataset, 'mmseg', tmp_path, model=model)
        assert sum(len(batch['inputs']) for batch in loader) == NUMBER
    tested = watched(dataset, 'mmseg', tmp_path, 'test_dataloader', model=model)
    with pytest.raises(SampleError, match='250'):  # the metric would count it
        list(tested)


class Locked:
    """A data set that cannot be copied as it is, like one of an open data base."""

    def __init__(self, items):
        self.items = items
        self.lock = threading.Lock()

    def __getitem__(self, index):
        return self.items[index]

    def __getstate__(self):
        return {name: v for name, v in vars(self).items() if name != 'lock'}


def test_a_watched_data_set_leaves_out_what_it_leaves_out_itself():
    dataset = Locked([1, 2])
    dataset.__class__ = _watched_class(Locked)
    twin = pickle.loads(pickle.dumps(dataset))
    assert type(twin) is type(dataset)
    assert vars(twin) == dict(items=[1, 2])
