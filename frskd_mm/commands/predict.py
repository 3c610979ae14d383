"""Predict images: ``frskd predict CONFIG CHECKPOINT IMAGE_OR_FOLDER ...``.

The student of a training checkpoint, or an exported one, classifies, segments or
detects. Pictures and predictions.json go into --out.
"""

import argparse
import json
import os
import os.path as osp
import sys
from typing import Any, Dict, Iterable, List, Sequence, Set

import mmcv

from frskd_mm.engine import load_config
from frskd_mm.engine.predict import (
    Predictor,
    as_record,
    find_images,
    resize_labels,
)
from frskd_mm.utils.bar import Bar
from frskd_mm.utils.checkpoint_files import write_whole
from frskd_mm.utils.command import CommandParser, sentence
from frskd_mm.visualization.images import pixels
from frskd_mm.visualization.predictions import draw_prediction

RESULTS = 'predictions.json'
#: What the files of an image end with.
LABELS, PICTURE = '_labels.png', '.png'


def parse_args() -> argparse.Namespace:
    """Define the command line."""
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of the checkpoint, or package::path')
    parser.add_argument(
        'checkpoint', help='training checkpoint or exported student; both work'
    )
    parser.add_argument('images', nargs='+', help='image files, and folders of them')
    parser.add_argument(
        '--out',
        default=osp.join('work_dirs', 'predict'),
        help='folder of pictures and predictions.json (default: %(default)s)',
    )
    add_image_options(parser)
    parser.add_argument(
        '--no-pictures', action='store_true', help='write predictions.json alone'
    )
    parser.add_cfg_options()
    args = parser.parse_args()
    check_image_options(parser, args)
    return args


def add_image_options(parser: CommandParser) -> None:
    """Add what ``predict`` and ``visualize`` have in common."""
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='leave boxes out that score less (default: %(default)s)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='resize images to this; by default as the test pipeline does',
    )
    parser.add_argument('--device', help="where to compute, such as 'cpu' or 'cuda:1'")


def check_image_options(parser: CommandParser, args: argparse.Namespace) -> None:
    """Refuse values that mean nothing."""
    if not 0 <= args.score_thr <= 1:
        parser.error(f'--score-thr must be from 0 to 1, not {args.score_thr:g}')
    if args.size and min(args.size) < 1:
        parser.error(f'--size must be 1 or more, not {min(args.size)}')
    if osp.isfile(args.out):
        parser.error(f'--out {args.out} is a file; give a folder')


def main() -> None:
    """Predict, write, and say where it is."""
    args = parse_args()
    paths = find_images(args.images)
    endings = [LABELS] if args.no_pictures else [LABELS, PICTURE]
    taken: Set[str] = set()
    names = [free_name(path, taken, endings) for path in paths]
    check_targets(args.out, taken, paths)
    cfg = load_config(args.config, args.cfg_options)
    size = tuple(args.size) if args.size else None
    predictor = Predictor(cfg, args.checkpoint, size=size, device=args.device)
    os.makedirs(args.out, exist_ok=True)
    predictor.prepare()  # what is wrong with it is so for all images
    target = osp.join(args.out, RESULTS)
    records: List[Dict[str, Any]] = []
    try:
        with Bar(len(paths), 'images') as bar:
            for path, name in zip(paths, names):
                records.append(_predict(predictor, path, name, args))
                bar.advance(description=path)
    finally:  # what is done by then is kept, also after Ctrl+C
        if records:
            found = dict(checkpoint=args.checkpoint, images=records)
            write_whole(target, json.dumps(found, indent=1).encode())
    for record in records:
        print(f'{record["image"]}: {summary(record)}')
    print(f'Predictions: {target}')
    unread = sum('error' in record for record in records)
    if unread:
        sys.exit(f'{unread} of {len(records)} images could not be read; see above.')


def _predict(
    predictor: Predictor, path: str, name: str, args: argparse.Namespace
) -> Dict[str, Any]:
    try:
        seen = predictor.read(path)
    except Exception as error:  # of whatever kind the pipeline raises
        return dict(image=path, error=sentence(error))
    sample = predictor.predict(seen)
    size = seen.file_size
    record = dict(
        image=path, **as_record(predictor.model, sample, args.score_thr, size)
    )
    if 'pred_sem_seg' in sample:
        record['labels'] = f'{name}{LABELS}'
        labels = sample.pred_sem_seg.data[0].numpy()
        # PNG has 8 or 16 bits.
        labels = labels.astype('uint8' if labels.max(initial=0) < 256 else 'uint16')
        labels = resize_labels(labels, size)
        mmcv.imwrite(labels, osp.join(args.out, record['labels']))
    if not args.no_pictures:
        shown = pixels(seen, predictor.is_bgr)[1]
        drawn = draw_prediction(predictor.model, shown, sample, args.score_thr)
        record['picture'] = f'{name}{PICTURE}'
        mmcv.imwrite(drawn[..., ::-1], osp.join(args.out, record['picture']))
    return record


def free_name(path: str, taken: Set[str], endings: Sequence[str] = (PICTURE,)) -> str:
    """Return a name for an image's files: its own, numbered if that is taken.

    Args:
        path: The image.
        taken: Files of the images before; gets those of this one.
        endings: Of its files.
    """
    stem = osp.splitext(osp.basename(path))[0]
    name, number = stem, 1
    while not taken.isdisjoint(f'{name}{ending}' for ending in endings):
        number += 1
        name = f'{stem}-{number}'
    taken.update(f'{name}{ending}' for ending in endings)
    return name


def check_targets(out: str, names: Iterable[str], paths: Sequence[str]) -> None:
    """Refuse to write over the images themselves.

    Args:
        out: The folder that is written to.
        names: Files that are written there.
        paths: The images.

    Raises:
        ValueError: If one of the files is an image that is read.
    """
    read = set(map(osp.realpath, paths))
    for name in sorted(names):
        target = osp.realpath(osp.join(out, name))
        if target in read:
            raise ValueError(
                f'{target} is an image that is read, and --out {out} would put a '
                'picture in its place. Give another folder.'
            )


def summary(record: Dict[str, Any]) -> str:
    """Return what was found in an image, in a line."""
    if 'error' in record:
        return record['error']
    if 'classes' in record:
        best = record['classes'][0]
        return f'{best["name"]} ({best["score"]:.2f})'
    if 'regions' in record:
        largest = sorted(record['regions'], key=lambda region: -region['share'])
        return ', '.join(f'{r["name"]} {100 * r["share"]:.0f} %' for r in largest)
    found = [f'{o["name"]} ({o["score"]:.2f})' for o in record['objects']]
    return ', '.join(found) or 'nothing'
