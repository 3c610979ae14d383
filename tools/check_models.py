"""Try upstream models: ``python tools/check_models.py``.

Every config is built without pretrained weights, wrapped with a method and
trained for one step on two random images, in a process of its own. What came
out is written to docs/models.md.
"""

import argparse
import json
import os
import os.path as osp
import subprocess
import sys
from copy import deepcopy
from datetime import date
from importlib.metadata import version
from typing import Any, Dict, List

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope

from frskd_mm.engine import load_config, wrap
from frskd_mm.lab.trial import random_batch, without_weights
from frskd_mm.utils.environment import package_family
from frskd_mm.utils.model import build_model

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
TABLE = osp.join(ROOT, 'docs', 'models.md')
RESULTS = osp.join(ROOT, 'work_dirs', 'check_models.json')
RESULT_MARK = 'RESULT '

# Lets mmpretrain's backbones give maps to a pooling classifier.
POOLED = {
    'model.neck.type': 'GlobalAveragePooling',
    'model.head.type': 'LinearClsHead',
}
FEATMAP = {
    'model.backbone.out_type': 'featmap',
    'model.neck._delete_': 'True',  # it is None there
    **POOLED,
}
NO_SOFT_LABEL = {'model.distiller.soft_label.loss_weight': '0'}
BACKBONE = {'model.distiller.source': 'backbone'}

# Family -> (config, settings to try when it does not work as it is).
MODEL_LIST: Dict[str, Dict[str, tuple]] = {
    'mmpretrain': {
        'ResNet': ('resnet/resnet18_8xb32_in1k.py',),
        'ResNet for CIFAR': ('resnet/resnet18_8xb16_cifar10.py',),
        'ResNeXt': ('resnext/resnext50-32x4d_8xb32_in1k.py',),
        'SE-ResNet': ('seresnet/seresnet50_8xb32_in1k.py',),
        'ResNeSt': ('resnest/resnest50_32xb64_in1k.py',),
        'Res2Net': ('res2net/res2net50-w14-s8_8xb32_in1k.py',),
        'RegNet': ('regnet/regnetx-400mf_8xb128_in1k.py',),
        'RepVGG': ('repvgg/repvgg-A0_8xb32_in1k.py',),
        'MobileOne': ('mobileone/mobileone-s0_8xb32_in1k.py',),
        'CSPDarkNet': ('cspnet/cspdarknet50_8xb32_in1k.py',),
        'DenseNet': ('densenet/densenet121_4xb256_in1k.py',),
        'VGG': (
            'vgg/vgg11bn_8xb32_in1k.py',
            {
                'model.backbone.num_classes': '-1',
                'model.neck._delete_': 'True',
                **POOLED,
                'model.head.num_classes': '1000',
                'model.head.in_channels': '512',
            },
        ),
        'Inception v3': ('inception_v3/inception-v3_8xb32_in1k.py',),
        'HRNet': ('hrnet/hrnet-w18_4xb32_in1k.py',),
        'MobileNetV2': ('mobilenet_v2/mobilenet-v2_8xb32_in1k.py',),
        'MobileNetV3': ('mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py',),
        'ShuffleNetV2': ('shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py',),
        'EfficientNet': ('efficientnet/efficientnet-b0_8xb32_in1k.py',),
        'EfficientNetV2': ('efficientnet_v2/efficientnetv2-b0_8xb32_in1k.py',),
        'ConvMixer': ('convmixer/convmixer-768-32_10xb64_in1k.py',),
        'ConvNeXt': (
            'convnext/convnext-tiny_32xb128_in1k.py',
            {'model.backbone.gap_before_final_norm': 'False', **POOLED},
        ),
        'VAN': ('van/van-tiny_8xb128_in1k.py',),
        'PoolFormer': ('poolformer/poolformer-s12_32xb128_in1k.py',),
        'Swin': ('swin_transformer/swin-tiny_16xb64_in1k.py',),
        'Swin v2': ('swin_transformer_v2/swinv2-tiny-w8_16xb64_in1k-256px.py',),
        'Twins (PCPVT)': ('twins/twins-pcpvt-small_8xb128_in1k.py',),
        'MobileViT': ('mobilevit/mobilevit-xxsmall_8xb128_in1k.py',),
        'EdgeNeXt': (
            'edgenext/edgenext-xxsmall_8xb256_in1k.py',
            {'model.backbone.gap_before_final_norm': 'False', **POOLED},
        ),
        'DeiT': ('deit/deit-tiny_4xb256_in1k.py', FEATMAP),
        'ViT': (
            'vision_transformer/vit-base-p32_64xb64_in1k.py',
            {
                **FEATMAP,
                'model.head._delete_': 'True',
                'model.head.num_classes': '1000',
                'model.head.in_channels': '768',
            },
        ),
        'MLP-Mixer': ('mlp_mixer/mlp-mixer-base-p16_64xb64_in1k.py',),
        'LeViT': ('levit/levit-128s_8xb256_in1k.py',),
        'EfficientFormer': ('efficientformer/efficientformer-l1_8xb128_in1k.py',),
    },
    'mmseg': {
        'FCN': ('fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py',),
        'PSPNet': ('pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',),
        'DeepLabV3': ('deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py',),
        'DeepLabV3+': (
            'deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        ),
        'UPerNet': ('upernet/upernet_r18_4xb2-40k_cityscapes-512x1024.py',),
        'UPerNet, Swin': (
            'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_'
            'ade20k-512x512.py',
        ),
        'UPerNet, ViT': ('vit/vit_deit-s16_upernet_8xb2-160k_ade20k-512x512.py',),
        'Semantic FPN': ('sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py',),
        'Semantic FPN, PoolFormer': (
            'poolformer/fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py',
        ),
        'SegFormer': ('segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',),
        'SegNeXt': ('segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py',),
        'OCRNet': ('ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py',),
        'HRNet': ('hrnet/fcn_hr18s_4xb2-40k_cityscapes-512x1024.py',),
        'PointRend': (
            'point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py',
            BACKBONE,
        ),
        'DANet': ('danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024.py',),
        'EncNet': ('encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',),
        'EMANet': ('emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024.py',),
        'BiSeNetV1': ('bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py',),
        'BiSeNetV2': ('bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py',),
        'STDC': ('stdc/stdc1_4xb12-80k_cityscapes-512x1024.py',),
        'Fast-SCNN': ('fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py',),
        'ICNet': ('icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py',),
        'CGNet': (
            'cgnet/cgnet_fcn_4xb8-60k_cityscapes-512x1024.py',
            {'model.distiller.neck.width': '1'},
        ),
        'ERFNet': ('erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py',),
        'LR-ASPP, MobileNetV3': (
            'mobilenet_v3/mobilenet-v3-d8-scratch-s_lraspp_4xb4-320k_'
            'cityscapes-512x1024.py',
        ),
        'PIDNet': ('pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py',),
        'DDRNet': ('ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py',),
        'UNet': ('unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py',),
        'K-Net': ('knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py',),
        'Segmenter': (
            'segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py',
            {'model.backbone.out_indices': '[2,5,8,11]'},
        ),
        'DPT': ('dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py',),
        'MaskFormer': (
            'maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py',
            NO_SOFT_LABEL,
        ),
        'Mask2Former': (
            'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
            NO_SOFT_LABEL,
        ),
    },
    'mmdet': {
        'RetinaNet': ('retinanet/retinanet_r18_fpn_1x_coco.py',),
        'RetinaNet, PVTv2': ('pvt/retinanet_pvtv2-b0_fpn_1x_coco.py',),
        'RetinaNet, NAS-FPN': ('nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py',),
        'FCOS': ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',),
        'FSAF': ('fsaf/fsaf_r50_fpn_1x_coco.py',),
        'FoveaBox': ('foveabox/fovea_r50_fpn_4xb4-1x_coco.py', NO_SOFT_LABEL),
        'ATSS': ('atss/atss_r50_fpn_1x_coco.py',),
        'ATSS, DyHead': ('dyhead/atss_r50_fpn_dyhead_1x_coco.py',),
        'PAA': ('paa/paa_r50_fpn_1x_coco.py',),
        'GFL': ('gfl/gfl_r50_fpn_1x_coco.py',),
        'VFNet': ('vfnet/vfnet_r50_fpn_1x_coco.py',),
        'TOOD': ('tood/tood_r50_fpn_1x_coco.py',),
        'DDOD': ('ddod/ddod_r50_fpn_1x_coco.py',),
        'AutoAssign': ('autoassign/autoassign_r50-caffe_fpn_1x_coco.py',),
        'FreeAnchor': ('free_anchor/freeanchor_r50_fpn_1x_coco.py',),
        'RepPoints': (
            'reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py',
            NO_SOFT_LABEL,
        ),
        'YOLOF': (
            'yolof/yolof_r50-c5_8xb8-1x_coco.py',
            {'model.backbone.out_indices': '[1,2,3]', **BACKBONE},
        ),
        'YOLOv3': ('yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py', NO_SOFT_LABEL),
        'YOLOX': ('yolox/yolox_tiny_8xb8-300e_coco.py',),
        'RTMDet': ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py',),
        'RTMDet-Ins': ('rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',),
        'SSD300': ('ssd/ssd300_coco.py',),
        'CenterNet': (
            'centernet/centernet_r18_8xb16-crop512-140e_coco.py',
            {**BACKBONE, **NO_SOFT_LABEL},
        ),
        'CornerNet': (
            'cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py',
            {**BACKBONE, **NO_SOFT_LABEL},
        ),
        'SOLO': ('solo/solo_r50_fpn_1x_coco.py', NO_SOFT_LABEL),
        'YOLACT': ('yolact/yolact_r50_1xb8-55e_coco.py', NO_SOFT_LABEL),
        'Faster R-CNN': ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',),
        'Faster R-CNN, C4': ('faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py',),
        'Mask R-CNN': ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',),
        'Mask R-CNN, Swin': ('swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',),
        'Cascade R-CNN': ('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',),
        'Cascade Mask R-CNN': ('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',),
        'Libra R-CNN': ('libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py',),
        'Double-Head R-CNN': ('double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py',),
        'Sparse R-CNN': (
            'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
            NO_SOFT_LABEL,
        ),
        'DETR': ('detr/detr_r50_8xb2-150e_coco.py', BACKBONE),
        'Conditional DETR': (
            'conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
            BACKBONE,
        ),
        'Deformable DETR': ('deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',),
        'DINO': ('dino/dino-4scale_r50_8xb2-12e_coco.py',),
        'MaskFormer': (
            'maskformer/maskformer_r50_ms-16xb1-75e_coco.py',
            NO_SOFT_LABEL,
        ),
        'Mask2Former': (
            'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
            NO_SOFT_LABEL,
        ),
    },
}
# Image sizes, where 128 is too small for the plain model.
IMAGE_SIZES = {
    'LR-ASPP, MobileNetV3': 400,
    'DDOD': 384,
    'DINO': 256,
    'SSD300': 300,
}

NOTES = """
## Good to know

* Settings go behind the command as written in the table. Those of the model are
  applied before it is wrapped, so they keep their upstream names; those under
  `model.distiller` belong to the method.
* The student is the plain model: its parameters, initial weights and outputs stay as
  its config says. Where its backbone returns several maps, these are refined. Where
  it returns one, tokens or a vector, stages are recorded as they run: of each map size
  the deepest, the coarsest four; of plain transformers four layers at even distances.
  What was chosen is printed, and `model.distiller.stages` chooses others, by the names
  of modules or indices of those that are printed.
* A head whose channels cannot be set to the refined maps' gets a 1x1 convolution before
  it in the self-teacher.
* Where the table changes a head or a pooling, the plain model for comparison needs
  the same settings, but for those under `model.distiller`: `--method none` with them.
* The learning-rate constructors of the hosts that decay by layer give everything
  under `distiller.` the rate of a head. `paramwise_cfg.custom_keys` match parts of
  names, so `head` of SegFormer's recipe (rate times 10) also holds for the twin's
  head, while the refining neck has the base rate; `self_teacher.neck` is a key for it.
""".splitlines()


def parse_args() -> argparse.Namespace:
    """Define the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--method', default='frskd', help='method to wrap with')
    parser.add_argument(
        '--only', nargs='+', default=[], help='libraries or families to try anew'
    )
    parser.add_argument(
        '--timeout', type=int, default=600, help='seconds a model may take'
    )
    parser.add_argument('--config', help='try this config in this process instead')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_args()


def step(cfg: Config, size: int) -> Dict[str, Any]:
    """Build the model, run one training step and describe both."""
    torch.manual_seed(0)
    MessageHub.get_current_instance().update_info('epoch', 0)  # as the runner does
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = revert_sync_batchnorm(build_model(cfg))
        model.init_weights()
        model.train()
        batch = random_batch(cfg, batch_size=2, image_size=(size, size), num_classes=2)
        batch = model.data_preprocessor(batch, training=True)
        losses = model(**batch, mode='loss')
        total, log = model.parse_losses(losses)
        total.backward()
    values = {name: float(value) for name, value in log.items() if 'loss' in name}
    if not torch.isfinite(total):
        raise ValueError(f'The loss is not finite: {values}')
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return dict(
        losses=values,
        student=sum(
            p.numel()
            for n, p in model.named_parameters()
            if not n.startswith('distiller.')
        ),
        distiller=sum(p.numel() for n, p in trained if n.startswith('distiller.')),
        unused=[n for n, p in trained if p.grad is None],
    )


def check(path: str, method: str, options: Dict[str, Any]) -> Dict[str, Any]:
    """Wrap a config and train it for a step."""
    cfg = load_config(path, options)
    without_weights(cfg.model)
    library, _, config = path.partition('::')
    names = {entry[0]: name for name, entry in MODEL_LIST.get(library, {}).items()}
    size = IMAGE_SIZES.get(names.get(config), 128)
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if 'batch_augments' in preprocessor:
        preprocessor.pop('batch_augments')  # they pad to the full size
    if cfg.default_scope == 'mmseg':
        preprocessor['size'] = (size, size)
    plain = deepcopy(cfg)
    plain.model.pop('distiller', None)
    if cfg.default_scope == 'mmpretrain':
        size = 64
    try:
        cfg = wrap(cfg, method)
        distiller = cfg.model.get('distiller', {})
        if cfg.default_scope == 'mmpretrain':
            size = distiller.get('input_size', (size, size))[0]
        # All terms from the first step on.
        distiller.pop('weight_schedule', None)
        result = step(cfg, size)
    except Exception as error:
        # Is it the method, or does the plain model not train either?
        try:
            step(plain, size)
        except Exception as plain_error:
            if str(plain_error) == str(error):
                raise RuntimeError(f'The plain model fails, too: {error}') from error
        raise
    result['absent'] = sorted({'loss_kd', 'loss_at'} - set(result['losses']))
    in_plain = set(step(plain, size)['unused']) if result['unused'] else set()
    result['unused_plain'] = sorted(in_plain & set(result['unused']))
    result['unused'] = sorted(set(result['unused']) - in_plain)
    return result


def run_apart(
    path: str, method: str, options: Dict[str, str], timeout: int
) -> Dict[str, Any]:
    """Check a config in another process, so that none can harm the others."""
    command = [sys.executable, osp.abspath(__file__), '--config', path]
    command += ['--method', method]
    if options:
        command += ['--cfg-options', *as_arguments(options)]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
        )
    except subprocess.TimeoutExpired:
        return dict(error=f'not done after {timeout} s')
    lines = done.stdout.strip().splitlines()
    results = [line for line in lines if line.startswith(RESULT_MARK)]
    if results:
        return json.loads(results[-1][len(RESULT_MARK) :])
    return dict(error=lines[-1] if lines else f'exit status {done.returncode}')


def check_family(path: str, method: str, remedies: tuple, timeout: int) -> dict:
    """Try a config as it is and, where that fails, with other settings."""
    result = run_apart(path, method, {}, timeout)
    reason = result.get('error')
    for options in remedies:
        if reason is not None:
            with_options = run_apart(path, method, options, timeout)
            if 'error' not in with_options:
                return dict(config=path, reason=reason, options=options, **with_options)
            reason += f' (With other settings: {with_options["error"]})'
    return dict(config=path, reason=reason, options={}, **result)


def as_arguments(options: Dict[str, str]) -> List[str]:
    """Return what follows --cfg-options on the command line."""
    return [f'{key}={value}' for key, value in options.items()]


def table_row(family: str, row: Dict[str, Any]) -> str:
    """Return a line of the table."""
    notes = []
    if row['options']:
        notes.append(f'`--cfg-options {" ".join(as_arguments(row["options"]))}`')
    if row['reason']:
        lead = 'Without: ' if row['options'] else ''
        notes.append(lead + row['reason'].replace('|', '\\|').replace('\n', ' '))
    verdict, student, distiller = 'no', '', ''
    if 'student' in row:
        verdict = 'with a setting' if row['options'] else 'yes'
        student = f'{row["student"] / 1e6:.1f}'
        distiller = f'{row["distiller"] / 1e6:.1f}'
        if row['absent']:
            notes.append(f'Without {", ".join(row["absent"])}.')
        if row['unused']:
            notes.append(
                f'{len(row["unused"])} parameters get no gradient, as '
                f'`{row["unused"][0]}`: set `find_unused_parameters=True` for several '
                'processes.'
            )
        if row['unused_plain']:
            notes.append(
                f'{len(row["unused_plain"])} parameters get no gradient in the plain '
                'model either.'
            )
    config = row['config'].replace('::', '::<br>')
    cells = (family, config, verdict, student, distiller, ' '.join(notes))
    return f'| {" | ".join(cells)} |'


def write_table(results: Dict[str, Dict[str, dict]], method: str) -> None:
    """Write docs/models.md."""
    packages = package_family()
    versions = ', '.join(
        f'{packages[name][0]} {version(packages[name][0])}'
        for name in ('torch', 'mmengine', 'mmcv', *MODEL_LIST)
    )
    rows = [row for families in results.values() for row in families.values()]
    counts = {
        'work as they are': sum('student' in r and not r['options'] for r in rows),
        'work with a setting': sum('student' in r and bool(r['options']) for r in rows),
        'do not work': sum('student' not in r for r in rows),
    }
    lines = [
        '# Upstream models',
        '',
        'What `python tools/train.py CONFIG --method frskd` makes of the host '
        "libraries' own configs. Each was built without pretrained weights, wrapped, "
        'and trained for one step, forward and backward, on two random images of '
        '128x128 pixels (classifiers: 64x64, or 224x224 where they need it). This '
        'shows that a model trains, not what it gains.',
        '',
        f'Written by `python tools/check_models.py --method {method}` on '
        f'{date.today()} on a CPU with {versions}.',
        '',
        f'Of {len(rows)} configs, '
        + ', '.join(f'{number} {text}' for text, number in counts.items())
        + '. Parameters are in millions: of the student, and those that train beside '
        'it and are gone when it is deployed.',
        *NOTES,
    ]
    for library, families in results.items():
        lines += ['', f'## {library}', '']
        lines += ['| Family | Config | Works | Student | Distiller | Remarks |']
        lines += ['|---|---|---|---|---|---|']
        lines += [table_row(family, row) for family, row in families.items()]
    with open(TABLE, 'w', encoding='utf-8') as file:
        file.write('\n'.join(lines) + '\n')


def check_here(args: argparse.Namespace) -> None:
    """Check one config in this process and print the result."""
    try:
        result = check(args.config, args.method, args.cfg_options)
    except Exception as error:
        lines = str(error).strip().splitlines() or ['']
        result = dict(error=f'{type(error).__name__}: {lines[0]}')
    print(RESULT_MARK + json.dumps(result))


def main() -> None:
    """Check what is asked for and write the table of all results."""
    args = parse_args()
    if args.config:
        check_here(args)
        return
    known: Dict[str, Dict[str, dict]] = {}
    if args.only and osp.isfile(RESULTS):
        with open(RESULTS, encoding='utf-8') as file:
            known = json.load(file)
    results: Dict[str, Dict[str, dict]] = {}
    os.makedirs(osp.dirname(RESULTS), exist_ok=True)
    for library, families in MODEL_LIST.items():
        rows = results.setdefault(library, {})
        for family, (config, *remedies) in families.items():
            if not args.only or {library, family, config} & set(args.only):
                path = f'{library}::{config}'
                row = check_family(path, args.method, tuple(remedies), args.timeout)
                print(table_row(family, row), flush=True)
            elif family in known.get(library, {}):
                row = known[library][family]
            else:
                continue
            rows[family] = row
            known.setdefault(library, {})[family] = row
            with open(RESULTS, 'w', encoding='utf-8') as file:
                json.dump(known, file, indent=1)
    write_table(results, args.method)


if __name__ == '__main__':
    main()
