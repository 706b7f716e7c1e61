"""Metrics that are one number a case, found by a plain function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.metrics import CumulativeIterationMetric

__all__ = ["PerCaseMetric"]


class PerCaseMetric(CumulativeIterationMetric):
    """MONAI's bookkeeping (batches, lists, several processes) around a function of one case.

    The values of all cases are its buffer, [cases, 1]; ``aggregate`` is their mean, NaN left out; NaN if there is
    nothing else, where MONAI's reduction would give 0.

    Args:
        function: takes prediction and reference of one case, [C, ...] tensors, and gives a number.
    """

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], float]) -> None:
        super().__init__()
        self.function = function

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        if y is None:
            raise ValueError("a metric needs a reference; let output_transform give prediction and reference.")
        return torch.tensor([[self.function(*pair)] for pair in zip(y_pred, y)], dtype=torch.float32)

    def aggregate(self) -> torch.Tensor:
        values = self.get_buffer()
        if values is None:
            raise ValueError("the metric has seen no case.")
        return values.nanmean()
