"""How far a classifier's confidence can be trusted."""

import os
import os.path as osp
from typing import Any, Dict, NamedTuple, Optional, Sequence

import numpy as np
from mmengine.evaluator import BaseMetric

from frskd_mm.registry import METRICS
from frskd_mm.utils.arguments import at_least, check_arguments, one_of


class Predictions(NamedTuple):
    """What calibration needs of N predictions; each an array (N,)."""

    #: Largest probability.
    confidences: np.ndarray
    #: Whether the class of the largest probability is the label, as 0 or 1.
    correct: np.ndarray
    #: Probability of the label.
    label_scores: np.ndarray


class Bins(NamedTuple):
    """Predictions gathered by confidence; each an array (num_bins,)."""

    counts: np.ndarray
    #: Mean confidence; 0 in empty bins.
    confidences: np.ndarray
    #: Share of correct predictions; 0 in empty bins.
    accuracies: np.ndarray


@METRICS.register_module()
class Calibration(BaseMetric):
    """NLL, ECE and AURC of a single-label classifier.

    * ``NLL``: mean of -ln of the label's probability, in nats. A probability
      that single precision rounds to 0 counts as its smallest normal number.
    * ``ECE``: expected calibration error, a fraction of 1, see
      :func:`expected_calibration_error`.
    * ``AURC``: area under the risk-coverage curve, a fraction of 1, see
      :func:`area_under_risk_coverage`.

    Args:
        num_bins (int): Bins of the ECE. Defaults to 15.
        out_file (str, optional): NPZ file to write the :class:`Predictions` to, and
            the predicted classes as ``predicted`` (N,).
        collect_device (str): 'cpu' or 'gpu', where the results of several
            processes are gathered. Defaults to 'cpu'.
        prefix (str, optional): Prefix of the names. Defaults to 'calibration'.
    """

    default_prefix = 'calibration'

    @check_arguments(num_bins=at_least(1), collect_device=one_of('cpu', 'gpu'))
    def __init__(
        self,
        num_bins: int = 15,
        out_file: Optional[str] = None,
        collect_device: str = 'cpu',
        prefix: Optional[str] = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.num_bins = num_bins
        self.out_file = out_file

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep four numbers of each prediction.

        Args:
            data_batch: Unused.
            data_samples: Each with ``pred_score`` (C,), probabilities, and
                ``gt_label`` (1,).

        Raises:
            ValueError: If an image has no label or several.
        """
        for sample in data_samples:
            label = sample.get('gt_label')
            if label is None or label.numel() != 1:
                raise ValueError(
                    'Calibration is for one label an image, but got gt_label='
                    f'{label}. Remove it from the evaluator.'
                )
            scores = sample['pred_score']
            confidence, predicted = scores.max(dim=0)
            self.results.append(
                (
                    float(confidence),
                    float(int(predicted) == int(label)),
                    float(scores[int(label)]),
                    int(predicted),
                )
            )

    def compute_metrics(self, results: Sequence[tuple]) -> Dict[str, float]:
        """Compute the three values from the predictions of all processes."""
        *numbers, predicted = np.array(results).T
        predictions = Predictions(*numbers)
        if self.out_file is not None:
            os.makedirs(osp.dirname(osp.abspath(self.out_file)), exist_ok=True)
            np.savez(
                self.out_file, predicted=predicted.astype(int), **predictions._asdict()
            )
        return dict(
            NLL=negative_log_likelihood(predictions),
            ECE=expected_calibration_error(predictions, self.num_bins),
            AURC=area_under_risk_coverage(predictions),
        )


def negative_log_likelihood(predictions: Predictions) -> float:
    """Return the mean of -ln of the label's probability."""
    smallest = np.finfo(np.float32).tiny
    return float(-np.log(np.maximum(predictions.label_scores, smallest)).mean())


def gather_bins(predictions: Predictions, num_bins: int = 15) -> Bins:
    """Gather predictions in bins of equal width, the k-th (k/K, (k+1)/K].

    A confidence of exactly 0 is in the first one, too.
    """
    edges = np.arange(1, num_bins) / num_bins
    index = np.digitize(predictions.confidences, edges, right=True)
    counts = np.bincount(index, minlength=num_bins)
    confidences, accuracies = (
        np.bincount(index, weights=values, minlength=num_bins) / np.maximum(counts, 1)
        for values in (predictions.confidences, predictions.correct)
    )
    return Bins(counts, confidences, accuracies)


def expected_calibration_error(predictions: Predictions, num_bins: int = 15) -> float:
    """Return the distance of confidence and accuracy, averaged over the images.

    Both are means over a bin of equal width.

    Example:
        >>> four = np.array([0.9, 0.9, 0.6, 0.6]), np.array([1, 1, 1, 0])
        >>> print(f'{expected_calibration_error(Predictions(*four, four[0])):.2f}')
        0.10

    Paper: On Calibration of Modern Neural Networks, ICML 2017,
    https://arxiv.org/abs/1706.04599
    """
    counts, confidences, accuracies = gather_bins(predictions, num_bins)
    return float(counts @ np.abs(confidences - accuracies) / counts.sum())


def area_under_risk_coverage(predictions: Predictions) -> float:
    """Return the error among the n most confident, averaged over all n.

    Images of equal confidence have no order: their errors are spread evenly
    over them, so the value does not depend on the order of the images.

    Paper: Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers,
    ICLR 2019, https://arxiv.org/abs/1805.08206
    """
    _, group, sizes = np.unique(
        -predictions.confidences, return_inverse=True, return_counts=True
    )
    errors = np.bincount(group, weights=1.0 - predictions.correct)
    per_image = np.repeat(errors / sizes, sizes)
    return float(np.mean(np.cumsum(per_image) / np.arange(1, len(per_image) + 1)))
