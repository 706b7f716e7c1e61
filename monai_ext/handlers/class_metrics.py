"""How well the probabilities of the classes fit the references, over all cases, by scikit-learn.

Letters: B cases, C classes; a probability is [B, C] whose rows add up to 1, a reference the number of the class [B].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.handlers import IgniteMetricHandler
from monai.metrics import CumulativeIterationMetric
from scipy.stats import bootstrap

from monai_ext.optional import load

__all__ = ["CLASS_METRICS", "ClassMetric", "calibration_bins", "metrics_of", "metrics_with_intervals"]

BINS = 10  # of the calibration error


def _accuracy(probability: np.ndarray, label: np.ndarray) -> float:
    return float(load("sklearn.metrics").accuracy_score(label, probability.argmax(1)))


def _balanced_accuracy(probability: np.ndarray, label: np.ndarray) -> float:
    found, present = probability.argmax(1), np.unique(label)
    return float(np.mean([(found[label == number] == number).mean() for number in present]))


def _macro_f1(probability: np.ndarray, label: np.ndarray) -> float:
    scores = load("sklearn.metrics").f1_score
    classes = np.arange(probability.shape[1])
    return float(scores(label, probability.argmax(1), labels=classes, average="macro", zero_division=np.nan))


def _roc_auc(probability: np.ndarray, label: np.ndarray) -> float:
    return _one_against_the_rest(load("sklearn.metrics").roc_auc_score, probability, label)


def _average_precision(probability: np.ndarray, label: np.ndarray) -> float:
    return _one_against_the_rest(load("sklearn.metrics").average_precision_score, probability, label)


def _one_against_the_rest(score: Callable[..., float], probability: np.ndarray, label: np.ndarray) -> float:
    """Of two classes the second one's score, of more the mean over the classes; NaN where one is absent or alone."""
    classes = [1] if probability.shape[1] == 2 else range(probability.shape[1])
    truths = [label == number for number in classes]
    if not all(truth.any() and not truth.all() for truth in truths):
        return float("nan")
    return float(np.mean([score(truth, probability[:, number]) for number, truth in zip(classes, truths)]))


def _brier_score(probability: np.ndarray, label: np.ndarray) -> float:
    """Brier (1950): mean over the cases of the sum over the classes of squared differences; 0 to 2."""
    return float(np.square(probability - np.eye(probability.shape[1])[label]).sum(1).mean())


def _calibration_error(probability: np.ndarray, label: np.ndarray) -> float:
    """Expected calibration error (Guo et al., 2017) of the predicted class, over 10 bins of equal width."""
    bins = calibration_bins(probability, label)
    return float(sum(count * abs(accuracy - confidence) for confidence, accuracy, count in bins) / len(label))


def calibration_bins(probability: np.ndarray, label: np.ndarray) -> list[tuple[float, float, int]]:
    """Mean confidence, accuracy and number of cases of every bin that holds any."""
    confidence, right = probability.max(1), probability.argmax(1) == label
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    inside = [place == number for number in range(BINS)]
    return [(float(confidence[i].mean()), float(right[i].mean()), int(i.sum())) for i in inside if i.any()]


# of probabilities [B, C] and classes [B]; of two classes, the second is the one looked for
CLASS_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "roc_auc": _roc_auc,
    "average_precision": _average_precision,
    "brier_score": _brier_score,
    "calibration_error": _calibration_error,
}


def metrics_of(probability: np.ndarray, label: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """All of `CLASS_METRICS`, then sensitivity, specificity, precision and F1 of each class."""
    values = {name: function(probability, label) for name, function in CLASS_METRICS.items()}
    found = probability.argmax(1)
    for number, name in enumerate(class_names):
        truth, positive = label == number, found == number
        hits, both = (truth & positive).sum(), truth.sum() + positive.sum()
        values[f"sensitivity_{name}"] = float(hits / truth.sum()) if truth.any() else float("nan")
        values[f"specificity_{name}"] = (
            float((~truth & ~positive).sum() / (~truth).sum()) if not truth.all() else np.nan
        )
        values[f"precision_{name}"] = float(hits / positive.sum()) if positive.any() else float("nan")
        values[f"f1_{name}"] = float(2 * hits / both) if both else float("nan")
    return values


def metrics_with_intervals(
    probability: np.ndarray,
    label: np.ndarray,
    class_names: Sequence[str],
    groups: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float, float]]:
    """Each of `metrics_of` with its 95 % interval by the percentile bootstrap over groups of cases.

    Cases of one group, such as cells of one picture, are drawn together, since they are not independent. Draws in
    which a figure does not exist are left out of its interval; NaN for a single group.
    """
    values = metrics_of(probability, label, class_names)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(group == number) for number in range(len(names))]
    if len(names) < 2:
        return {name: (value, float("nan"), float("nan")) for name, value in values.items()}
    drawn: list[dict[str, float]] = []

    def remember(chosen: np.ndarray) -> float:
        cases = np.concatenate([members[number] for number in chosen])
        drawn.append(metrics_of(probability[cases], label[cases], class_names))
        return 0.0

    bootstrap(
        (np.arange(len(names)),),
        remember,
        n_resamples=resamples,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    found = {}
    for name, value in values.items():
        spread = np.asarray([draw[name] for draw in drawn])
        spread = spread[np.isfinite(spread)]
        low, high = np.percentile(spread, [2.5, 97.5]) if len(spread) else (float("nan"), float("nan"))
        found[name] = (value, float(low), float(high))
    return found


class ClassMetric(IgniteMetricHandler):
    """One figure of a classification, of all cases together.

    Args:
        metric: one of ``CLASS_METRICS``.
        output_transform: gives logits or probabilities [C] and references of every case; logits go through softmax.
        save_details: keep the rows of the cases, probabilities and reference, in ``engine.state.metric_details``.

    Raises:
        ValueError: for an unknown metric, or references that are no classes.
    """

    def __init__(
        self,
        metric: str = "accuracy",
        output_transform: Callable[[Any], Any] = lambda x: x,
        save_details: bool = True,
    ) -> None:
        super().__init__(_OfAllCases(metric), output_transform=output_transform, save_details=save_details)


class _OfAllCases(CumulativeIterationMetric):
    """The rows of all cases are the buffer, [B, C + 1]: probabilities and reference."""

    def __init__(self, metric: str) -> None:
        super().__init__()
        if metric not in CLASS_METRICS:
            raise ValueError(f"unknown metric {metric!r}; known ones: {', '.join(CLASS_METRICS)}.")
        self.metric = metric

    def _compute_list(self, y_pred: Any, y: Any = None, **kwargs: Any) -> torch.Tensor:
        if y is None:
            raise ValueError("a metric needs a reference; let output_transform give prediction and reference.")
        rows = [(probabilities(pred), label) for pred, label in zip(y_pred, y)]
        # one tensor: MONAI takes the entries of a list for buffers of their own
        return torch.stack([torch.cat([row, torch.tensor([reference_of(label, len(row))])]) for row, label in rows])

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        return self._compute_list(y_pred, y)

    def aggregate(self) -> torch.Tensor:
        rows = self.get_buffer()
        if rows is None or not len(rows):
            raise ValueError("the metric has seen no case.")
        rows = rows.cpu().numpy()
        return torch.tensor(CLASS_METRICS[self.metric](rows[:, :-1], rows[:, -1].astype(int)))


def probabilities(pred: Any) -> torch.Tensor:
    """Of one case [C], float64: as they are, or by softmax where they are logits."""
    pred = torch.as_tensor(pred).detach().cpu().double().reshape(-1)
    is_probability = bool((pred >= 0).all()) and abs(float(pred.sum()) - 1) < 1e-3
    return pred if is_probability else pred.softmax(0)


def reference_of(label: Any, classes: int) -> int:
    """The number of a class, whatever it comes as."""
    value = torch.as_tensor(label).detach().cpu().double().reshape(-1)
    if len(value) != 1 or float(value) not in range(classes):
        raise ValueError(f"a reference must be the number of a class, 0 to {classes - 1}, got {value.tolist()}.")
    return int(value)
