"""Pairs: every training sample comes with a partner."""

from typing import Any, Dict, List, Optional, Sequence, Union

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
        >>> train_dataloader = dict(
        ...     batch_size=128,  # pairs
        ...     collate_fn=dict(type='frskd_mm.collate_pairs'),
        ...     dataset=dict(
        ...         type='frskd_mm.PairDataset', partner='same_class', dataset=...))

    Args:
        dataset (dict | BaseDataset): Any data set of a host library.
        partner (str): 'same_image', the image once more through the random
            pipeline, or 'same_class', an image of the same class, drawn evenly;
            it may be the image itself.
        extra_transforms (list[dict], optional): Transforms that the partner gets
            beside the data set's own, before the last of these, which packs.

    Raises:
        ValueError: If ``partner`` is unknown.
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
        self.partner_pipeline = None
        if extra_transforms is not None:
            *transforms, pack = self.dataset.pipeline.transforms
            self.partner_pipeline = Compose([*transforms, *extra_transforms, pack])
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

    def get_data_info(self, index: int) -> dict:
        """Return the annotation of the first sample of a pair."""
        return self.dataset.get_data_info(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> List[Dict[str, Any]]:
        sample, other = self.dataset[index], index
        if self.partner == 'same_class':
            other = int(np.random.choice(self._of_class[self._labels[index]]))
        if self.partner_pipeline is None:
            partner = self.dataset[other]
        else:
            partner = self.partner_pipeline(self.dataset.get_data_info(other))
        # Lets the distiller refuse batches that are not what it needs.
        partner['data_samples'].set_metainfo(dict(partner=self.partner))
        return [sample, partner]


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
