"""How well the probabilities of one class fit its reference, pixel by pixel, by scikit-learn; and centre lines.

Letters: P predicted mask, R reference mask, S(.) their centre lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler
from monai.utils import evenly_divisible_all_gather

from monai_ext.handlers.per_case import PerCaseMetric
from monai_ext.optional import load

__all__ = ["PIXEL_METRICS", "PixelMetric", "centre_line_dice"]


def _roc_auc(probability: np.ndarray, reference: np.ndarray, _threshold: float) -> float:
    if reference.all() or not reference.any():  # one class only: there is no curve
        return float("nan")
    return float(load("sklearn.metrics").roc_auc_score(reference, probability))


def _sensitivity(probability: np.ndarray, reference: np.ndarray, threshold: float) -> float:
    return _recall(probability >= threshold, reference, True)


def _specificity(probability: np.ndarray, reference: np.ndarray, threshold: float) -> float:
    return _recall(probability >= threshold, reference, False)


def _recall(found: np.ndarray, reference: np.ndarray, which: bool) -> float:
    recall = load("sklearn.metrics").recall_score
    return float(recall(reference, found, pos_label=which, zero_division=np.nan))


def _accuracy(probability: np.ndarray, reference: np.ndarray, threshold: float) -> float:
    return float(load("sklearn.metrics").accuracy_score(reference, probability >= threshold))


def _dice(probability: np.ndarray, reference: np.ndarray, threshold: float) -> float:
    return float(load("sklearn.metrics").f1_score(reference, probability >= threshold, zero_division=np.nan))


# of flat probabilities, flat reference and threshold
PIXEL_METRICS: dict[str, Callable[[np.ndarray, np.ndarray, float], float]] = {
    "roc_auc": _roc_auc,
    "sensitivity": _sensitivity,
    "specificity": _specificity,
    "accuracy": _accuracy,
    "dice": _dice,
}
CENTRE_LINE = "centre_line_dice"  # needs the image, not the pixels alone


def centre_line_dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """clDice of two masks, 2D or 3D.

    Shit et al., *clDice, a novel topology-preserving loss function for tubular structure segmentation* (CVPR 2021):
    the harmonic mean of |S(P) and R| / |S(P)| and |S(R) and P| / |S(R)|, centre lines by
    ``skimage.morphology.skeletonize``. NaN if both masks are empty, 0 if one is.
    """
    if not prediction.any() or not reference.any():
        return 0.0 if prediction.any() or reference.any() else float("nan")
    skeletonize = load("skimage.morphology").skeletonize
    precision = float(reference[skeletonize(prediction) > 0].mean())
    sensitivity = float(prediction[skeletonize(reference) > 0].mean())
    total = precision + sensitivity
    return 2 * precision * sensitivity / total if total else 0.0


class PixelMetric(IgniteMetricHandler):
    """One figure of a binary segmentation for every case, from probabilities.

    The metric is the mean over the cases or, with ``pooled``, the figure of all their pixels together; the values
    of the cases are in ``engine.state.metric_details`` either way. A figure that does not exist (sensitivity
    without a positive pixel) is NaN and left out of the mean. In a run of several processes a case that the sampler
    repeats to fill up is pooled twice.

    Args:
        metric: one of ``PIXEL_METRICS``, or "centre_line_dice" (clDice).
        threshold: a pixel is positive from this probability on.
        mask_key: key of a mask in the engine's output or batch, such as the field of view; pixels where it is 0 do
            not count.
        pooled: as above; keeps the pixels of all cases, 5 bytes each.
        output_transform: gives probabilities and reference, [1, ...], or [2, ...] with the background first.
        save_details: keep the values of the cases.

    Raises:
        ValueError: for an unknown metric, a pooled clDice, values that are no probabilities, and images, reference
            or mask of other shapes.
    """

    def __init__(
        self,
        metric: str = "roc_auc",
        threshold: float = 0.5,
        mask_key: str | None = None,
        pooled: bool = False,
        output_transform: Callable[[Any], Any] = lambda x: x,
        save_details: bool = True,
    ) -> None:
        if metric not in (*PIXEL_METRICS, CENTRE_LINE):
            raise ValueError(f"unknown metric {metric!r}; known ones: {', '.join([*PIXEL_METRICS, CENTRE_LINE])}.")
        if pooled and metric == CENTRE_LINE:
            raise ValueError(f"{CENTRE_LINE} has no pooled value, its centre lines are those of a case.")
        self.metric = metric
        self.threshold = threshold
        self.mask_key = mask_key
        self.pooled = pooled
        self._masks: list[Any] = []
        self._pool: list[tuple[torch.Tensor, torch.Tensor]] = []
        super().__init__(PerCaseMetric(self._case), output_transform=output_transform, save_details=save_details)

    def reset(self) -> None:
        self._pool = []
        super().reset()

    def iteration_completed(self, engine: Engine) -> None:
        self._masks = self._masks_of(engine) if self.mask_key is not None else []
        super().iteration_completed(engine)

    def compute(self) -> Any:
        mean = super().compute()
        if not self.pooled:
            return mean
        parts = zip(*self._pool)
        probability, reference = (evenly_divisible_all_gather(torch.cat(part)).numpy() for part in parts)
        return PIXEL_METRICS[self.metric](probability, reference > 0, self.threshold)

    def _masks_of(self, engine: Engine) -> list[Any]:
        outputs, batches = engine.state.output, engine.state.batch
        if not isinstance(outputs, list) or not isinstance(batches, list):
            raise ValueError("the evaluator must decollate its batches; leave its option decollate at true.")
        masks = []
        for output, batch in zip(outputs, batches):
            if self.mask_key not in output and self.mask_key not in batch:
                raise ValueError(f"a case has no {self.mask_key!r}, named by mask_key; load it, or leave mask_key out.")
            masks.append(output.get(self.mask_key, batch.get(self.mask_key)))
        return masks

    def _case(self, prediction: torch.Tensor, reference: torch.Tensor) -> float:
        probability, truth = _foreground(prediction, "prediction"), _foreground(reference, "reference") > 0.5
        inside = np.ones(truth.shape, bool)
        if self.mask_key is not None:
            inside = _foreground(self._masks.pop(0), "mask") > 0.5  # cases come in the order of the batch
        if not probability.shape == truth.shape == inside.shape:
            raise ValueError(
                f"prediction, reference and mask have different shapes: {probability.shape}, {truth.shape}, "
                f"{inside.shape}."
            )
        if not inside.any():
            raise ValueError("the mask is empty, no pixel is left to judge; check it.")
        low, high = float(probability.min()), float(probability.max())
        if not (low >= -1e-3 and high <= 1.001):  # rounding is allowed; NaN is neither
            raise ValueError(
                f"probabilities must lie between 0 and 1, got {low:g} to {high:g}; apply softmax or sigmoid first."
            )
        if self.metric == CENTRE_LINE:
            return centre_line_dice((probability >= self.threshold) & inside, truth & inside)
        probability, truth = probability[inside], truth[inside]
        if self.pooled:
            self._pool.append((torch.from_numpy(probability), torch.from_numpy(truth).byte()))
        return PIXEL_METRICS[self.metric](probability, truth, self.threshold)


def _foreground(value: Any, name: str) -> np.ndarray:
    """The last of one or two channels."""
    value = torch.as_tensor(value).detach().cpu().float()
    if value.shape[0] > 2:
        raise ValueError(
            f"the {name} has {value.shape[0]} channels; a binary segmentation has 1, or 2 with background."
        )
    return value[-1].numpy()
