"""Networks compute on plain tensors; MONAI's metadata goes around them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor


def beside_metadata(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Let a network's ``forward(self, x)`` compute on a plain tensor and give its results the metadata of ``x``.

    A ``MetaTensor`` takes its batch apart and together again at many an operation, which costs time, and refuses
    some on tensors that are no batch (windows, tables).
    """

    @functools.wraps(forward)
    def run(self: Any, x: torch.Tensor) -> Any:
        if not isinstance(x, MetaTensor):
            return forward(self, x)
        return _with_metadata(forward(self, x.as_tensor()), x)

    return run


def _with_metadata(result: Any, image: MetaTensor) -> Any:
    if isinstance(result, torch.Tensor):
        copy = MetaTensor(result)
        copy.copy_meta_from(image)
        copy.is_batch = image.is_batch
        return copy
    return type(result)(_with_metadata(r, image) for r in result)
