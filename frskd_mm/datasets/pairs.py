"""Pairs: every training sample comes with a partner."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

import numpy as np
from mmengine.dataset import BaseDataset, Compose
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS

from frskd_mm.registry import DATASETS, FUNCTIONS
from frskd_mm.utils.arguments import check_arguments, one_of

PARTNERS = ('same_image', 'same_class')


@DATASETS.register_module()
class PairDataset:
    """Give every sample of a data set together with a partner.

    An item is the list [sample, partner]. :func:`collate_pairs` makes a batch
    of N pairs into an ordinary batch of 2N samples, which the host's
    preprocessor and model take as they are. Order and number of the first
    samples are those of the wrapped data set. Partners are drawn from numpy's
    generator, which the host seeds in every worker.

    Example:
        >>> pack = [dict(type='mmpretrain.PackInputs')]
        >>> digits = dict(
        ...     type='Digits', split='train', num_per_class=2, pipeline=pack)
        >>> pairs = PairDataset(digits, partner='same_class')
        >>> first, second = (item['data_samples'] for item in pairs[0])
        >>> len(pairs), bool(first.gt_label == second.gt_label)
        (20, True)

    Args:
        dataset (dict | BaseDataset): Any data set of a host library, also within
            wrappers such as ``RepeatDataset``, ``ClassBalancedDataset`` or
            ``ConcatDataset``.
        partner (str): 'same_image', the image once more through the random
            pipeline, or 'same_class', an image of the same class, drawn evenly;
            it may be the image itself.
        extra_transforms (list[dict], optional): Transforms that the partner gets
            beside the data set's own, before the last of these, which packs. They
            go into the pipelines of the innermost data sets.

    Raises:
        ValueError: If ``partner`` is unknown.
        TypeError: If there are extra transforms and no pipeline to take them.
    """

    @check_arguments(partner=one_of(*PARTNERS))
    def __init__(
        self,
        dataset: Union[dict, BaseDataset],
        partner: str,
        extra_transforms: Optional[Sequence[Any]] = None,
    ) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.dataset.full_init()
        self.partner = partner
        self._own_pipelines: List[tuple] = []
        self._partner_pipelines: List[tuple] = []
        if extra_transforms is not None:
            for inner in _inner_datasets(self.dataset):
                *transforms, pack = inner.pipeline.transforms
                longer = Compose([*transforms, *extra_transforms, pack])
                self._own_pipelines.append((inner, inner.pipeline))
                self._partner_pipelines.append((inner, longer))
        if partner == 'same_class':
            self._labels = np.array(
                [
                    int(self.dataset.get_data_info(index)['gt_label'])
                    for index in range(len(self.dataset))
                ]
            )
            self._of_class = {
                label: np.flatnonzero(self._labels == label)
                for label in np.unique(self._labels)
            }

    @property
    def metainfo(self) -> dict:
        """Meta information of the wrapped data set."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Do nothing, for wrappers: the data set was read when this was built."""

    def get_data_info(self, index: int) -> dict:
        """Return the annotation of the first sample of a pair."""
        return self.dataset.get_data_info(index)

    def get_cat_ids(self, index: int) -> List[int]:
        """Return the classes of the first sample, as balancing wrappers ask."""
        return self.dataset.get_cat_ids(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> List[Dict[str, Any]]:
        sample, other = self.dataset[index], index
        if self.partner == 'same_class':
            other = int(np.random.choice(self._of_class[self._labels[index]]))
        with self._extra_transforms():
            partner = self.dataset[other]
        # Lets the distiller refuse batches that are not what it needs.
        partner['data_samples'].set_metainfo(dict(partner=self.partner))
        return [sample, partner]

    @contextmanager
    def _extra_transforms(self) -> Iterator[None]:
        """Let the inner data sets apply the extra transforms as well.

        Which of them an item comes from, and how often, is the wrappers' affair.
        """
        for inner, pipeline in self._partner_pipelines:
            inner.pipeline = pipeline
        try:
            yield
        finally:
            for inner, pipeline in self._own_pipelines:
                inner.pipeline = pipeline


def _inner_datasets(dataset: Any) -> List[Any]:
    """Return the data sets with a pipeline inside of wrappers.

    Raises:
        TypeError: If there is none, or a wrapper has one of its own, too.
    """
    pipeline = getattr(dataset, 'pipeline', None)
    if isinstance(pipeline, Compose):
        return [dataset]
    parts = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if pipeline is not None or parts == [None]:
        raise TypeError(
            f'The extra_transforms of the pairs go into the pipeline of a data set, '
            f'but {type(dataset).__name__} has none of the usual kind. Use a data set '
            'derived from BaseDataset, or a wrapper around one.'
        )
    return [inner for part in parts for inner in _inner_datasets(part)]


@FUNCTIONS.register_module()
def collate_pairs(
    pairs: Sequence[Sequence[Dict[str, Any]]], collate: str = 'default_collate'
) -> Any:
    """Collate N pairs into a batch of 2N samples.

    Args:
        pairs: Items of :class:`PairDataset`.
        collate: MMEngine's function for the 2N samples: 'default_collate', or
            'pseudo_collate' if the images differ in size.

    Returns:
        The batch: the N samples, then their N partners in the same order.
    """
    samples, partners = zip(*pairs)
    return MMENGINE_FUNCTIONS.get(collate)([*samples, *partners])
