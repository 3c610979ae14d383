"""The student leaves PyTorch and OpenMMLab: graphs, and the hosts' inferencers."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import save_checkpoint

from frskd_mm.commands import export as command
from frskd_mm.engine import (
    export_graph,
    export_onnx,
    export_student,
    load_config,
    read_metadata,
    student_config,
)
from frskd_mm.engine.config import loads_files
from frskd_mm.engine.export_onnx import _metadata
from frskd_mm.utils.model import build_model, count_parameters

REPO = Path(__file__).resolve().parents[2]
SIZE = (64, 48)
CLASSES = {
    'classification': list('0123456789'),
    'segmentation': ['sky', 'road', *(f'class {i}' for i in range(9))],
    'detection': ['RBC', 'WBC', 'Platelets'],
}
CONFIGS = {
    'classification': 'digits/frskd_wrn10-1_digits.py',
    'segmentation': 'mmseg/frskd_fcn_r18-c16_1xb8-30e_camvid-240x180.py',
    'detection': 'mmdet/frskd_retinanet_r18-narrow_1xb8-24e_bccd.py',
}
TASKS = list(CONFIGS)


class Trained(NamedTuple):
    task: str
    cfg: Config
    model: torch.nn.Module
    checkpoint: str
    folder: Path


def train_a_little(task, folder):
    """Write a checkpoint of a distilled model as if it had been trained."""
    torch.manual_seed(0)
    cfg = load_config(str(REPO / 'configs' / CONFIGS[task]))
    model = build_model(cfg)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    checkpoint = str(folder / 'epoch_1.pth')
    meta = dict(dataset_meta=dict(classes=tuple(CLASSES[task])), epoch=1)
    palette = np.arange(3 * len(CLASSES[task])).reshape(-1, 3) % 256
    meta['dataset_meta']['palette'] = palette.tolist()
    save_checkpoint(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    return Trained(task, cfg, model.eval(), checkpoint, folder)


@pytest.fixture(scope='module', params=TASKS)
def trained(request, tmp_path_factory):
    return train_a_little(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope='module')
def onnx():
    """For tests of graphs, which the classic libraries cannot export."""
    pytest.importorskip('onnxruntime')
    return pytest.importorskip('onnx')


@pytest.fixture(scope='module')
def exported(trained, onnx):
    """Both formats of a distilled checkpoint."""
    return {
        kind: export_graph(
            trained.cfg, trained.checkpoint, str(trained.folder / name), SIZE, kind
        )
        for kind, name in (('onnx', 'student.onnx'), ('torch', 'student.pt2'))
    }


def run_onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    outputs = session.run(None, {'images': images.numpy()})
    return [torch.from_numpy(output) for output in outputs]


def outputs_of(model, task, images):
    """What the trained model itself gives, distiller and all, flat."""
    with torch.no_grad():
        if task == 'segmentation':
            return [model.encode_decode(images, [dict(img_shape=SIZE)])]
        found = model(images, mode='tensor')
    if task == 'classification':
        return [found]
    return [level for kind in found for level in kind]


@pytest.mark.parametrize('number', [1, 3])
def test_graphs_give_what_the_trained_model_gives(trained, exported, number):
    images = torch.randn(number, 3, *SIZE)
    expected = outputs_of(trained.model, trained.task, images)
    program = torch.export.load(exported['torch'].path).module()
    for found in (run_onnx(exported['onnx'].path, images), program(images)):
        torch.testing.assert_close(list(found), expected, atol=1e-4, rtol=1e-4)
    assert max(exported['onnx'].differences.values()) <= 1e-4
    assert len(exported['onnx'].outputs) == len(expected)


def test_the_graph_is_that_of_the_plain_student(trained, exported, onnx, tmp_path):
    checkpoint, config = export_student(
        trained.cfg, trained.checkpoint, str(tmp_path / 'student.pth')
    )
    plain = Config.fromfile(config)
    assert plain.model.type != 'frskd_mm.Distilled'
    again = export_graph(plain, checkpoint, str(tmp_path / 'a.pt2'), SIZE, 'torch')
    ops = [
        [(node.op, str(node.target)) for node in torch.export.load(path).graph.nodes]
        for path in (exported['torch'].path, again.path)
    ]
    assert ops[0] == ops[1]
    model = onnx.load(exported['onnx'].path)
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    student = build_model(student_config(trained.cfg))
    whole = sum(tensor.numel() for tensor in student.state_dict().values())
    # Shapes and thresholds come to it, nothing of the self-teacher.
    assert weights < whole + 100 < count_parameters(trained.model)
    assert {node.domain for node in model.graph.node} == {''}


def test_the_file_says_how_to_use_it(trained, exported, onnx):
    for found in exported.values():
        metadata = read_metadata(found.path)
        assert metadata['task'] == trained.task
        assert metadata['classes'] == CLASSES[trained.task]
        assert metadata['image_size'] == list(SIZE)
        assert metadata['outputs'] == found.outputs
        preprocessing = metadata['preprocessing']
        images = torch.randint(0, 256, (1, 3, *SIZE)).float()
        mean, std = (
            torch.tensor(preprocessing[key]).view(3, 1, 1) for key in ('mean', 'std')
        )
        # Digits are in memory, as RGB; of files the host's loader gives BGR.
        given = 'RGB' if trained.task == 'classification' else 'BGR'
        order = [0, 1, 2] if preprocessing['channels'] == given else [2, 1, 0]
        student = build_model(student_config(trained.cfg))
        expected = preprocess(student, images[0])
        height, width = SIZE
        torch.testing.assert_close(
            ((images[:, order] - mean) / std),
            expected[..., :height, :width],
        )
    assert json.loads(onnx.load(exported['onnx'].path).metadata_props[0].value)


def test_the_channels_are_those_that_reach_the_model():
    for name, files, expected in (
        (str(REPO / 'configs/resnet18_cifar100.py'), False, 'RGB'),
        ('mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py', True, 'RGB'),
    ):
        cfg = load_config(name)
        assert loads_files(cfg.test_dataloader.dataset) == files
        found = _metadata(cfg, {}, 'cls', [], (32, 32))
        found = json.loads(found['frskd_mm.preprocessing'])
        assert found['channels'] == expected
    cfg.test_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[cfg.test_dataloader.dataset]
    )
    assert loads_files(cfg.test_dataloader.dataset)
    # The model's own settings go before those at the top, as in the runner.
    cfg.model.data_preprocessor.update(mean=[1, 2, 3], bgr_to_rgb=False)
    found = json.loads(_metadata(cfg, {}, 'seg', [], SIZE)['frskd_mm.preprocessing'])
    assert (found['channels'], found['mean']) == ('BGR', [1, 2, 3])


def preprocess(student, image):
    """Run a host's own preprocessing of one image."""
    data = dict(inputs=[image.byte()], data_samples=None)
    if 'mmdet' in type(student.data_preprocessor).__module__:
        from mmdet.structures import DetDataSample

        data['data_samples'] = [DetDataSample(metainfo=dict(img_shape=SIZE))]
    return student.data_preprocessor(data, False)['inputs']


@pytest.mark.usefixtures('onnx')
def test_the_detector_s_maps_are_decoded_to_its_boxes(tmp_path):
    from mmdet.structures import DetDataSample

    trained = train_a_little('detection', tmp_path)
    found = export_graph(
        trained.cfg, trained.checkpoint, str(tmp_path / 'a.onnx'), SIZE
    )
    head = trained.model.bbox_head
    levels = head.prior_generator.num_levels
    assert found.outputs == [
        f'{kind}_{level}'
        for kind in ('cls_score', 'bbox_pred')
        for level in range(levels)
    ]
    images = torch.randn(2, 3, *SIZE)
    metas = [dict(img_shape=SIZE, scale_factor=(1.0, 1.0), ori_shape=SIZE)] * 2
    maps = run_onnx(found.path, images)
    test_cfg = Config(dict(trained.cfg.model.student.test_cfg, score_thr=0.0))._cfg_dict
    with torch.no_grad():
        boxes = head.predict_by_feat(
            *(maps[:levels], maps[levels:]), batch_img_metas=metas, cfg=test_cfg
        )
        head.test_cfg = test_cfg
        samples = [DetDataSample(metainfo=meta) for meta in metas]
        expected = trained.model.predict(images, samples, rescale=False)
    for box, sample in zip(boxes, expected):
        wanted = sample.pred_instances
        assert len(wanted) > 0
        torch.testing.assert_close(box.scores, wanted.scores, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(box.bboxes, wanted.bboxes, atol=1e-2, rtol=1e-4)
        assert torch.equal(box.labels, wanted.labels)


@pytest.mark.parametrize('task', TASKS)
def test_inferencers_of_the_hosts_read_the_exported_files(task, tmp_path):
    trained = train_a_little(task, tmp_path)
    checkpoint, config = export_student(
        trained.cfg, trained.checkpoint, str(tmp_path / 'student.pth')
    )
    image = np.random.default_rng(0).integers(0, 256, (180, 240, 3), dtype=np.uint8)
    if task == 'classification':
        from mmpretrain import ImageClassificationInferencer

        inferencer = ImageClassificationInferencer(
            config, pretrained=checkpoint, device='cpu'
        )
        found = inferencer(image)[0]
        assert found['pred_class'] in CLASSES[task]
        assert len(found['pred_scores']) == 10
    elif task == 'segmentation':
        from mmseg.apis import MMSegInferencer

        inferencer = MMSegInferencer(config, weights=checkpoint, device='cpu')
        found = inferencer(image)['predictions']
        assert found.shape == image.shape[:2]
        assert list(inferencer.model.dataset_meta['classes']) == CLASSES[task]
    else:
        from mmdet.apis import DetInferencer

        inferencer = DetInferencer(
            config, weights=checkpoint, device='cpu', show_progress=False
        )
        (found,) = inferencer(image)['predictions']
        assert len(found['labels']) == len(found['bboxes']) == len(found['scores'])
        assert inferencer.visualizer.dataset_meta['classes'] == tuple(CLASSES[task])
    assert not hasattr(inferencer.model, 'distiller')


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    return train_a_little('classification', tmp_path_factory.mktemp('classifier'))


@pytest.mark.usefixtures('onnx')
def test_the_command_writes_a_graph(classifier, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'new' / 'student.pt2'
    monkeypatch.setattr(
        'sys.argv',
        [
            *('export', str(REPO / 'configs' / CONFIGS['classification'])),
            *(classifier.checkpoint, str(out), '--format', 'torch'),
        ],
    )
    command.main()
    assert read_metadata(str(out))['image_size'] == [24, 24]  # of the training
    printed = capsys.readouterr().out
    assert 'Input: images (N, C, 24, 24)\nOutputs: logits\n' in printed
    assert 'Largest difference to PyTorch: ' in printed


def test_a_size_for_a_checkpoint_is_refused(classifier, monkeypatch, capsys):
    monkeypatch.setattr(
        'sys.argv', ['export', 'a.py', 'b.pth', 'c.pth', '--image-size', '1', '2']
    )
    with pytest.raises(SystemExit):
        command.main()
    assert '--image-size is for --format onnx or torch' in capsys.readouterr().err


@pytest.mark.usefixtures('onnx')
@pytest.mark.parametrize(
    ('out', 'kind', 'message'),
    [
        ('a.pth', 'onnx', r'with the ending \.onnx, not .*a\.pth'),
        ('a.onnx', 'torch', r'with the ending \.pt2'),
        ('a.trt', 'tensorrt', r"no format 'tensorrt' .* There are: onnx, torch\."),
    ],
)
def test_wrong_outputs_are_refused(classifier, tmp_path, out, kind, message):
    path = str(tmp_path / out)
    with pytest.raises(ValueError, match=message):
        export_graph(classifier.cfg, classifier.checkpoint, path, SIZE, kind)


@pytest.mark.usefixtures('onnx')
def test_weights_of_another_model_are_refused(classifier, tmp_path):
    cfg = load_config(str(REPO / 'configs/digits/fcn_r18-c16_digit-scenes.py'))
    with pytest.raises(ValueError, match='was not trained with this config'):
        export_graph(cfg, classifier.checkpoint, str(tmp_path / 'a.onnx'), SIZE)


@pytest.mark.usefixtures('onnx')
def test_a_graph_that_differs_is_not_written(classifier, tmp_path, monkeypatch):
    write, run = export_onnx.FORMATS['torch']
    monkeypatch.setitem(
        export_onnx.FORMATS, 'torch', (write, lambda *a: [x + 1e-2 for x in run(*a)])
    )
    out = tmp_path / 'a.pt2'
    with pytest.raises(ValueError, match=r'differs from PyTorch: logits by 0\.01'):
        export_graph(classifier.cfg, classifier.checkpoint, str(out), SIZE, 'torch')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures('onnx')
def test_detectors_of_two_stages_are_refused(tmp_path):
    cfg = load_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    cfg.model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    cfg.model.neck.in_channels = [8, 16, 32, 64]
    model = build_model(cfg)
    checkpoint = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    with pytest.raises(ValueError, match=r'FasterRCNN has no heads .*mmdeploy'):
        export_graph(cfg, checkpoint, str(tmp_path / 'a.onnx'), (64, 64))
