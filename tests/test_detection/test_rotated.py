"""Detectors of mmrotate, whose boxes have an angle."""

import json
from copy import deepcopy

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

pytest.importorskip('mmrotate', reason="needs mmrotate: pip install -e '.[rotated]'")

from contracts import owners_trained
from small_runs import forget_the_last_run

from frskd_mm.engine import configure_run, evaluate, export_student, load_config, train
from frskd_mm.engine.wrap import wrap
from frskd_mm.lab.trial import random_batch, without_weights
from frskd_mm.models.losses.foreground import inside_boxes
from frskd_mm.models.tasks.readers import find_readers
from frskd_mm.models.tasks.readers.dense import cells_in_boxes
from frskd_mm.utils.model import build_model
from frskd_mm.visualization.predictions import draw_disagreement, draw_prediction

#: Rotated FCOS with the loss that runs on a CPU.
DETECTORS = {
    'Rotated RetinaNet': (
        'rotated_retinanet/rotated-retinanet-rbox-le90_r50_fpn_1x_dota.py'
    ),
    'Rotated FCOS': 'rotated_fcos/rotated-fcos-hbox-le90_r50_fpn_1x_dota.py',
    'Oriented R-CNN': 'oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota.py',
}
#: Values that make any detector small, by their names.
SMALL = {
    'num_classes': 3,
    'stacked_convs': 1,
    'feat_channels': 64,
    'fc_out_channels': 32,
    'max_per_img': 20,
    'score_thr': 0.0,
}
SIZE = 64


def shrink(part):
    """Make a model's parts narrow, in place."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if key in SMALL:
            part[key] = SMALL[key]
        elif value == [256, 512, 1024, 2048]:
            part[key] = [8, 16, 32, 64]
        elif value == 256:
            part[key] = 64
        elif isinstance(value, (dict, list)):
            shrink(value)


def small_config(path):
    cfg = load_config(f'mmrotate::{path}')
    without_weights(cfg.model)
    shrink(cfg.model)
    if cfg.model.backbone.type == 'mmdet.ResNet':
        cfg.model.backbone.update(depth=18, base_channels=8, stem_channels=8)
        cfg.model.backbone.update(frozen_stages=-1, norm_eval=False)
    return cfg


def distilled(path, **distiller):
    cfg = wrap(
        small_config(path), distiller=dict(weight_schedule=dict(begin=0), **distiller)
    )
    model = build_model(cfg)
    model.init_weights()
    return cfg, model.train()


def batch_of(cfg, model):
    batch = random_batch(cfg, 2, (SIZE, SIZE), num_classes=3)
    with DefaultScope.overwrite_default_scope('mmrotate'):
        return model.data_preprocessor(batch, training=True)


def both_passes(model, batch):
    distiller = model.distiller
    student = distiller.run_student(model, **batch, source=distiller.levels)
    return student, distiller.run_self_teacher(model, student, batch['data_samples'])


def read(name, model, passes, batch):
    """What the reader of a head says in two passes."""
    reader = {reader.name: reader for reader in find_readers(model)}[name]
    return reader.soft_labels(*passes, batch['data_samples'])


def rows(maps, columns):
    """Rows (M, columns) of dense maps."""
    levels = [m.permute(0, 2, 3, 1).reshape(len(m), -1, columns) for m in maps]
    return torch.cat(levels, dim=1).flatten(0, 1)


def reached(model, losses, names):
    """The first parts of the names of parameters that terms reach."""
    total, _ = model.parse_losses({name: losses[name] for name in names})
    return owners_trained(model, total)


@pytest.fixture
def made_images(tmp_path):
    """Four images with a turned bright rectangle each, annotated as COCO has them."""
    images, annotations = [], []
    for index in range(4):
        image = np.full((SIZE, SIZE, 3), 40, dtype=np.uint8)
        corners = cv2.boxPoints(((32, 30), (36, 16), 20 * index))
        cv2.fillPoly(image, [corners.astype(int)], (200, 120, 60 * index))
        cv2.imwrite(str(tmp_path / f'{index}.png'), image)
        images.append(dict(id=index, file_name=f'{index}.png', height=SIZE, width=SIZE))
        annotations.append(
            dict(
                id=index + 1,
                image_id=index,
                category_id=1,
                bbox=cv2.boundingRect(corners),
                area=36 * 16,
                iscrowd=0,
                segmentation=[corners.flatten().tolist()],
            )
        )
    categories = [dict(id=1, name='plane')]
    (tmp_path / 'made.json').write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=categories))
    )
    return tmp_path


def on_made_images(path, root, epochs):
    """A config's detector with mmrotate's pipelines for annotations as COCO has them.

    DOTA's metric would start four processes at every evaluation.
    """
    cfg = small_config(path)
    data = load_config('mmrotate::_base_/datasets/dota_coco.py')
    for name in ('train', 'val', 'test'):
        loader = data[f'{name}_dataloader']
        loader.num_workers, loader.persistent_workers = 0, False
        loader.dataset.update(
            data_root=str(root),
            ann_file='made.json',
            data_prefix=dict(img=''),
            metainfo=dict(classes=('plane', 'ship', 'harbor')),
        )
        for transform in loader.dataset.pipeline:
            if transform.type == 'mmdet.Resize':
                transform.scale = (SIZE, SIZE)
        cfg[f'{name}_dataloader'] = loader
    cfg.val_evaluator = cfg.test_evaluator = dict(data.val_evaluator, classwise=False)
    cfg.train_cfg.update(max_epochs=epochs, val_interval=10)
    cfg.log_level = 'ERROR'
    return cfg


@pytest.mark.parametrize('path', DETECTORS.values(), ids=DETECTORS)
def test_trains_resumes_exports_and_tests(path, made_images, tmp_path):
    work_dir, epochs = tmp_path / 'run', (1, 2)
    for number, resume in zip(epochs, (None, 'auto')):
        forget_the_last_run()
        cfg = wrap(on_made_images(path, made_images, number))
        runner = train(configure_run(cfg, str(work_dir), resume=resume))
    assert runner.iter == 4
    before, after = (
        torch.load(work_dir / f'epoch_{number}.pth', weights_only=False)['state_dict']
        for number in epochs
    )
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert any(name.startswith('distiller.self_teacher.neck') for name in moved)
    assert any(name.startswith('backbone.layer4') for name in moved)

    checkpoint = str(work_dir / 'epoch_2.pth')
    out, config = export_student(cfg, checkpoint, str(tmp_path / 'student.pth'))
    plain_cfg = Config.fromfile(config)
    plain = build_model(plain_cfg)
    weights = torch.load(out, weights_only=False)['state_dict']
    plain.load_state_dict(weights, strict=True)
    sample = batch_of(cfg, plain)
    ours, theirs = (
        model.eval()(**sample, mode='predict')[0].pred_instances
        for model in (runner.model, plain)
    )
    assert len(ours) > 0
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.bboxes, theirs.bboxes)
    found = []
    for one, file in ((cfg, checkpoint), (plain_cfg, out)):
        forget_the_last_run()
        found.append(evaluate(configure_run(one, str(tmp_path / 'test')), file))
    assert found[0]['r_coco/bbox_mAP'] == found[1]['r_coco/bbox_mAP'] >= 0


@pytest.mark.parametrize('path', DETECTORS.values(), ids=DETECTORS)
@pytest.mark.parametrize('foreground', ['confidence', 'boxes'])
def test_terms_act_and_reach_their_parts(path, foreground):
    cfg, model = distilled(
        path, soft_label=dict(foreground=foreground, bbox_weight=1.0)
    )
    losses = model(**batch_of(cfg, model), mode='loss')
    _, log = model.parse_losses(losses)
    terms = {name: float(value) for name, value in log.items() if 'loss' in name}
    assert all(0 < value < float('inf') for value in terms.values()), terms
    own = [name for name in losses if name.startswith('self_teacher.loss')]
    assert reached(model, losses, own) == {'distiller'}
    assert reached(model, losses, ['loss_at']) == {'backbone', 'neck'}
    kd = reached(model, losses, ['loss_kd'])
    assert {'backbone', 'neck'} < kd
    assert 'distiller' not in kd


def test_offsets_have_five_values_and_six_of_an_oriented_rpn():
    cfg, model = distilled(DETECTORS['Rotated RetinaNet'])
    batch = batch_of(cfg, model)
    passes = both_passes(model, batch)
    labels = read('dense', model, passes, batch)
    assert labels.bbox_form == 'offset'
    torch.testing.assert_close(
        labels.student_bbox, rows(passes[0].output('dense')[1], 5)
    )
    cfg, model = distilled(DETECTORS['Oriented R-CNN'])
    batch = batch_of(cfg, model)
    passes = both_passes(model, batch)
    labels = read('rpn', model, passes, batch)
    torch.testing.assert_close(labels.teacher_bbox, rows(passes[1].output('rpn')[1], 6))
    labels = read('roi0', model, passes, batch)
    assert labels.student_bbox.shape[1] == 5
    torch.testing.assert_close(labels.student_bbox, passes[0].output('roi0')[1])
    for sample in passes[0].outputs['samples0']:  # the twin scores the same
        assert sample in passes[1].outputs['samples0']


def test_fcos_compares_sides_angle_and_centerness():
    """The angle stands where other heads have the centerness."""
    cfg, model = distilled(DETECTORS['Rotated FCOS'])
    batch = batch_of(cfg, model)
    passes = both_passes(model, batch)
    labels = read('dense', model, passes, batch)
    assert labels.bbox_form == 'rotated'
    for one, side in zip(passes, ('student', 'teacher')):
        classes, sides, angles, centerness = one.output('dense')
        found = [getattr(labels, f'{side}_{kind}') for kind in ('cls', 'bbox')]
        torch.testing.assert_close(found[0], rows(classes, 3))
        torch.testing.assert_close(found[1][:, :4], rows(sides, 4))
        torch.testing.assert_close(found[1][:, 4:], rows(angles, 1))
        quality = getattr(labels, f'{side}_quality')
        torch.testing.assert_close(quality, rows(centerness, 1)[:, 0])


@pytest.mark.parametrize(
    ('method', 'distiller'), [('frskd', dict(cross_head=1)), ('lgd', {})]
)
def test_cross_heads_and_lgd_take_rotated_boxes(method, distiller):
    cfg = small_config(DETECTORS['Rotated FCOS'])
    settings = dict(weight_schedule=dict(begin=0), **distiller)
    model = build_model(wrap(cfg, method, distiller=settings)).train()
    model.init_weights()
    batch = batch_of(cfg, model)
    _, log = model.parse_losses(model(**batch, mode='loss'))
    terms = {name: float(value) for name, value in log.items() if 'loss' in name}
    assert len(terms) > 6
    assert all(0 < value < float('inf') for value in terms.values()), terms
    if method == 'lgd':
        return
    passes = both_passes(model, batch)
    (labels,) = model.distiller.task.soft_labels(*passes, batch['data_samples'])
    assert labels.bbox_form == 'rotated'
    classes, sides, angles, centerness = passes[1].output('dense')
    torch.testing.assert_close(labels.teacher_quality, rows(centerness, 1)[:, 0])
    assert labels.student_quality.shape == labels.teacher_quality.shape
    assert not torch.equal(labels.student_bbox[:, 4], labels.student_quality)


@pytest.mark.parametrize(
    ('path', 'form', 'columns'),
    [
        (
            'rotated_fcos/rotated-fcos-hbox-le90_r50_fpn_csl-gaussian_1x_dota.py',
            'distance',
            4,
        ),
        ('psc/rotated-fcos-hbox-le90_r50_fpn_psc-dual_1x_dota.py', 'rotated', 5),
        (
            'csl/rotated-retinanet-rbox-le90_r50_fpn_csl-gaussian_amp-1x_dota.py',
            'offset',
            4,
        ),
    ],
    ids=['bins', 'phases', 'bins beside offsets'],
)
def test_angles_in_other_codes(path, form, columns):
    cfg, model = distilled(path)
    batch = batch_of(cfg, model)
    passes = both_passes(model, batch)
    labels = read('dense', model, passes, batch)
    assert labels.bbox_form == form
    assert labels.student_bbox.shape == (len(labels.student_cls), columns)
    if form != 'rotated':
        return
    coder = model.bbox_head.angle_coder
    angles = rows(passes[0].output('dense')[2], coder.encode_size)
    torch.testing.assert_close(labels.student_bbox[:, 4], coder.decode(angles))


@pytest.mark.parametrize(
    ('path', 'reason'),
    [
        ('r3det/r3det-oc_r50_fpn_1x_dota.py', 'refines its boxes in several heads'),
        ('h2rbox/h2rbox-le90_r50_fpn_adamw-1x_dota.py', 'turns and crops its images'),
        (
            'gliding_vertex/gliding-vertex-rbox_r50_fpn_1x_dota.py',
            'GVBBoxHead does not return one row.*loss_weight=0',
        ),
    ],
    ids=['refining', 'turning', 'Gliding Vertex'],
)
def test_what_cannot_be_compared_is_refused_when_built(path, reason):
    with pytest.raises(TypeError, match=reason):
        distilled(path)


def test_gliding_vertex_is_distilled_by_its_features():
    path = 'gliding_vertex/gliding-vertex-rbox_r50_fpn_1x_dota.py'
    cfg, model = distilled(path, soft_label=dict(loss_weight=0.0))
    batch = batch_of(cfg, model)
    for sample in batch['data_samples']:
        corners = sample.gt_instances.bboxes.convert_to('qbox')
        sample.gt_instances.bboxes = corners
    losses = model(**batch, mode='loss')
    assert losses['loss_at'] > 0
    assert 'loss_kd' not in losses


def test_cells_in_rotated_boxes_are_mmrotates():
    from mmrotate.structures import RotatedBoxes

    cfg = small_config(DETECTORS['Rotated FCOS'])
    batch = batch_of(cfg, build_model(cfg))
    sample = batch['data_samples'][0]
    places = (torch.arange(16) + 0.5) * 4
    points = torch.stack(torch.meshgrid(places, places, indexing='xy'), dim=-1)
    boxes = sample.gt_instances.bboxes
    assert isinstance(boxes, RotatedBoxes)
    inside = boxes.find_inside_points(points.flatten(0, 1), eps=0)
    expected = inside.any(dim=1).unflatten(0, (16, 16))
    assert 0 < expected.float().mean() < 1
    assert torch.equal(cells_in_boxes([sample], (16, 16))[0], expected)
    # Corners come as turned boxes, too.
    sample.gt_instances.bboxes = boxes.convert_to('qbox')
    found = cells_in_boxes([sample], (16, 16))[0]
    assert (found != expected).float().mean() < 0.02


def test_guidance_draws_the_upright_box_around():
    cfg, model = distilled(DETECTORS['Rotated RetinaNet'], guidance=dict(drop=0.0))
    batch = batch_of(cfg, model)
    samples = batch['data_samples']
    task, guidance = model.distiller.task, model.distiller.guidance
    guidance.jitter = 0.0
    drawn = task.draw_labels(model, samples, [torch.zeros(2, 64, 16, 16)], guidance)
    around = [s.gt_instances.bboxes.convert_to('hbox').tensor for s in samples]
    expected = inside_boxes(around, (SIZE, SIZE), (16, 16))
    assert torch.equal(drawn[0][:, 3].bool(), expected)
    assert model(**batch, mode='loss')['loss_kd'] > 0


def test_predictions_are_drawn_turned():
    cfg, model = distilled(DETECTORS['Rotated RetinaNet'])
    model.dataset_meta = dict(classes=('plane', 'ship', 'harbor'), palette='random')
    sample = batch_of(cfg, model)['data_samples'][0].cpu()
    boxes = [[32.0, 30.0, 36.0, 8.0, 0.7]]
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(boxes),
        labels=torch.tensor([0]),
        scores=torch.tensor([0.9]),
    )
    image = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    drawn = draw_prediction(model, image, sample)
    coloured = drawn.any(axis=2)
    side = coloured.shape[0] // SIZE
    # Along the box's axis there is something, across it nothing.
    along, across = (
        (32 + 16 * c, 30 + 16 * s) for c, s in ((0.76, 0.64), (-0.64, 0.76))
    )
    for (x, y), expected in ((along, True), (across, False)):
        near = coloured[int((y - 5) * side) : int((y + 5) * side)]
        assert near[:, int((x - 5) * side) : int((x + 5) * side)].any() == expected
    other = deepcopy(sample)
    other.pred_instances.bboxes = torch.tensor([[32.0, 30.0, 36.0, 8.0, 0.72]])
    assert (
        '0 boxes of the student alone'
        in draw_disagreement(model, image, sample, other)[1]
    )
    other.pred_instances.bboxes = torch.tensor([[12.0, 50.0, 36.0, 8.0, 0.7]])
    assert (
        '1 boxes of the student alone'
        in draw_disagreement(model, image, sample, other)[1]
    )
