"""Look inside: ``frskd visualize CONFIG CHECKPOINT [IMAGE_OR_FOLDER ...]``.

For each image a picture of what student and self-teacher predict, where they
disagree, and their attention maps per level. Without images, some of the test set.
"""

import argparse
import os
import os.path as osp
from typing import List, Set

import mmcv
import numpy as np

from frskd_mm.engine import load_config
from frskd_mm.engine.predict import Predictor, find_images
from frskd_mm.utils.bar import Bar
from frskd_mm.utils.command import CommandParser
from frskd_mm.utils.optional import require_packages
from frskd_mm.visualization.images import Seen, pixels
from frskd_mm.visualization.inside import check_has_inside, draw_inside

from .predict import (
    add_image_options,
    check_image_options,
    check_targets,
    free_name,
)

NUM_IMAGES = 4


def parse_args() -> argparse.Namespace:
    """Define the command line."""
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of a distilled model, or package::path')
    parser.add_argument('checkpoint', help='its training checkpoint')
    parser.add_argument('images', nargs='*', help='image files, and folders of them')
    parser.add_argument(
        '--indices',
        type=int,
        nargs='+',
        help=f'images of the test set; by default {NUM_IMAGES}, spread over it',
    )
    parser.add_argument(
        '--out',
        default=osp.join('work_dirs', 'visualize'),
        help='folder of the pictures (default: %(default)s)',
    )
    add_image_options(parser)
    parser.add_cfg_options()
    args = parser.parse_args()
    check_image_options(parser, args)
    if args.images and args.indices:
        parser.error('--indices chooses images of the test set; leave the files out')
    return args


def main() -> None:
    """Draw, and say where the pictures are."""
    args = parse_args()
    require_packages('visualize', matplotlib='matplotlib')
    paths = find_images(args.images)
    taken: Set[str] = set()
    names = [free_name(path, taken) for path in paths]
    check_targets(args.out, taken, paths)
    cfg = load_config(args.config, args.cfg_options)
    size = tuple(args.size) if args.size else None
    predictor = Predictor(cfg, args.checkpoint, True, size=size, device=args.device)
    check_has_inside(predictor.model)
    os.makedirs(args.out, exist_ok=True)
    written = []
    indices = [] if paths else choose(args.indices, predictor)
    with Bar(len(paths) + len(indices), 'images') as bar:
        for number in range(len(paths) + len(indices)):
            if paths:
                seen, name = predictor.read(paths[number]), names[number]
            else:
                index = indices[number]
                seen, name = predictor.take(index), f'test_{index}'
            written.append(osp.join(args.out, f'{name}.png'))
            mmcv.imwrite(picture(predictor, seen, args.score_thr), written[-1])
            bar.advance(description=seen.name)
    print('\n'.join(written))


def choose(indices: List[int], predictor: Predictor) -> List[int]:
    """Return the given numbers, or some that are spread over the test set."""
    size = len(predictor.dataset)
    if indices is None:
        return np.linspace(0, size - 1, min(NUM_IMAGES, size)).astype(int).tolist()
    for index in indices:
        predictor.check_index(index)
    return indices


def picture(predictor: Predictor, seen: Seen, score_thr: float) -> np.ndarray:
    """Return the picture of one image, (H, W, 3) BGR as files are written."""
    drawn = draw_inside(
        predictor.model,
        *pixels(seen, predictor.is_bgr),
        seen.packed,
        title=seen.name,
        score_thr=score_thr,
    )
    return drawn[..., ::-1]
