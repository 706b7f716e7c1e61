"""Windows of a grid of tokens: which token stands where, and which windows need which mask.

Padding, shifting, partitioning and their inverses are one gather each way, by index maps that depend on the sizes only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from monai_ext.blocks.image_size import is_unknown


@dataclass(frozen=True)
class WindowPlan:
    """How a grid of N tokens falls into W windows of n tokens.

    Attributes:
        window: tokens along each axis of a window.
        index: (W * n) for every place in a window its token, or N for padding. Windows with the same mask are
            neighbours.
        inverse: (N) for every token its place in ``index``.
        padded: whether any place is padding.
        groups: for each kind of mask the number of its windows and their regions (n) that do not see each other, or
            None; where an export leaves the sizes open, all windows and the regions (W, n) of each.
    """

    window: tuple[int, ...]
    index: torch.Tensor
    inverse: torch.Tensor
    padded: bool
    groups: tuple[tuple[int, torch.Tensor | None], ...]

    @property
    def trivial(self) -> bool:
        """One window that is the whole grid: nothing to rearrange."""
        return not self.padded and len(self.groups) == 1 and self.groups[0][0] == 1


def plan_windows(
    grid: Sequence[int], window_size: Sequence[int], shift: bool, device: torch.device, clip: bool = True
) -> WindowPlan:
    """Lay windows over a grid, padded at the end of each axis; shifted ones start half a window further (cyclic).

    An axis not longer than the window gets one window, and no shift. With ``clip`` that window has the axis' length;
    without, the axis is padded to it, for mixers whose parameters belong to one grid. In an export that leaves the
    sizes open, the grid must be larger than the window along each axis, and counts as padded.
    """
    unknown = is_unknown(grid)
    if unknown:
        for g, w in zip(grid, window_size):
            torch._check(g > w)
    window = tuple(min(g, w) if clip and not unknown else w for g, w in zip(grid, window_size))
    counts = tuple((g + w - 1) // w for g, w in zip(grid, window))
    # the shift is half of the asked window; along an axis that one window covers there is none
    shifts = tuple(w // 2 if shift and (unknown or g > w) else 0 for g, w in zip(grid, window_size))
    n, total = math.prod(window), math.prod(grid)

    # per axis: (count, w) coordinates in the grid, out of range for padding
    axes = [_turned(c * w, s).view(c, w) for c, w, s in zip(counts, window, shifts)]
    dims = len(grid)
    places = torch.zeros((*counts, *window), dtype=torch.long)
    outside = torch.zeros((*counts, *window), dtype=torch.bool)
    for axis, (coordinate, size) in enumerate(zip(axes, grid)):
        shape = [1] * (2 * dims)
        shape[axis], shape[dims + axis] = coordinate.shape
        places = places * size + coordinate.view(shape)
        outside = outside | (coordinate >= size).view(shape)
    places = places.masked_fill(outside, total).view(-1, n)

    if unknown:  # a kind may have a single window, and exports take a length of 1 for one that stays
        regions = _all_regions(counts, window, shifts) if any(shifts) else None
        regions = None if regions is None else regions.to(device)
        index, groups = places.flatten(), ((math.prod(counts), regions),)
        return WindowPlan(window, index.to(device), torch.argsort(index)[:total].to(device), True, groups)

    # a shifted axis cuts its last window in two regions that do not see each other
    shifted = [axis for axis in range(dims) if shifts[axis]]
    last = torch.zeros(counts, dtype=torch.long)
    for bit, axis in enumerate(shifted):
        shape = [1] * dims
        shape[axis] = counts[axis]
        last = last + ((torch.arange(counts[axis]) == counts[axis] - 1).long() << bit).view(shape)
    groups = []
    for kind in range(1 << len(shifted)):
        cut = [axis for bit, axis in enumerate(shifted) if kind >> bit & 1]
        members = math.prod([1 if axis in cut else c - (axis in shifted) for axis, c in enumerate(counts)])
        groups.append((members, _regions(window, shifts, cut, device)))
    # sorting instead of searching: the shapes follow from the sizes alone, which compilers and exporters need
    count = places.shape[0]
    order = last.flatten() * count + torch.arange(count)  # unique, as ONNX has no stable sort
    index = places[torch.argsort(order)].flatten()
    inverse = torch.argsort(index)[:total]  # padding is the largest number
    padded = any(c * w > g for c, w, g in zip(counts, window, grid))
    return WindowPlan(window, index.to(device), inverse.to(device), padded, tuple(groups))


def _turned(length: int, shift: int) -> torch.Tensor:
    """``shift, …, length - 1, 0, …, shift - 1``."""
    places = torch.arange(length) + shift
    return torch.where(places >= length, places - length, places)


def _regions(window: Sequence[int], shifts: Sequence[int], cut: Sequence[int], device: torch.device):
    """The region of each token (n) of a window that is cut along the given axes; None without a cut."""
    if not cut:
        return None
    region = torch.zeros(tuple(window), dtype=torch.long)
    for axis in cut:
        shape = [1] * len(window)
        shape[axis] = window[axis]
        region = region * 2 + (torch.arange(window[axis]) >= window[axis] - shifts[axis]).long().view(shape)
    return region.flatten().to(device)


def _all_regions(counts: Sequence[int], window: Sequence[int], shifts: Sequence[int]) -> torch.Tensor:
    """The region of each token of each window (W, n)."""
    dims, regions = len(window), torch.zeros((*counts, *window), dtype=torch.long)
    for axis, (c, w, s) in enumerate(zip(counts, window, shifts)):
        if s:
            shape = [1] * (2 * dims)
            shape[axis], shape[dims + axis] = c, w
            last, beyond = torch.arange(c) == c - 1, torch.arange(w) >= w - s
            regions = regions * 2 + (last[:, None] & beyond).long().view(shape)
    return regions.view(-1, math.prod(window))


def _rows(x: torch.Tensor, index: torch.Tensor, pad: bool) -> torch.Tensor:
    """Rows of ``x`` (B, R, C) by ``index``; with ``pad`` row R is zeros."""
    if pad:
        x = torch.cat([x, x.new_zeros(x.shape[0], 1, x.shape[2])], 1)
    return x.index_select(1, index)


class _Take(torch.autograd.Function):
    """Rows of ``x`` (B, R, C) by ``index``, where row R is zeros; ``inverse`` is the same map the other way.

    Every row is taken at most once, so the gradient is a gather too: PyTorch's own scatter-add is far slower on a CPU.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor, pad: bool, pad_back: bool):
        ctx.save_for_backward(index, inverse)
        ctx.pads = pad, pad_back
        return _rows(x, index, pad)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        index, inverse = ctx.saved_tensors
        pad, pad_back = ctx.pads
        return _Take.apply(grad, inverse, index, pad_back, pad), None, None, None, None


def _take(x: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor, pad: bool, pad_back: bool) -> torch.Tensor:
    # a trace could not be saved with a Python function in it
    if torch.jit.is_tracing() or not x.requires_grad:
        return _rows(x, index, pad)
    return _Take.apply(x, index, inverse, pad, pad_back)


def to_windows(x: torch.Tensor, plan: WindowPlan) -> torch.Tensor:
    """Tokens (B, N, C) to windows (B, W * n, C), zeros where there is padding."""
    return x if plan.trivial else _take(x, plan.index, plan.inverse, plan.padded, False)


def from_windows(x: torch.Tensor, plan: WindowPlan) -> torch.Tensor:
    """Windows (B, W * n, C) back to tokens (B, N, C); what stands on padding is dropped."""
    return x if plan.trivial else _take(x, plan.inverse, plan.index, False, plan.padded)
