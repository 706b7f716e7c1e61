"""What every loss on pairs of images does first."""

from __future__ import annotations

import torch

_LOW = (torch.float16, torch.bfloat16)


def plain_pair(input: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of one shape as plain tensors, lower types in float32.

    Meta data would be carried through every operation, and low types lose the small differences that remain late
    in training. float64 stays what it is.

    Raises:
        ValueError: for different shapes; they would be broadcast, and the loss be wrong without a word.
    """
    if input.shape != target.shape:
        raise ValueError(
            f"prediction and reference have different shapes, {tuple(input.shape)} and {tuple(target.shape)}; "
            "give them the same number of channels and the same size."
        )
    first, second = (value.as_subclass(torch.Tensor) for value in (input, target))
    first = first.float() if first.dtype in _LOW or not first.is_floating_point() else first
    return first, second.to(first.dtype)
