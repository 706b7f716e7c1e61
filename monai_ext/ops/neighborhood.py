"""Neighbourhood attention (Hassani et al., arXiv 2204.07143, 2022; dilated: Hassani and Shi, arXiv 2209.15001, 2022).

Legend: B batch, H heads, N tokens, D channels of a head, g1 .. the axes of the grid, k1 .. those of the window.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch

from monai_ext.ops.backends import choose_backend, why_not_cuda, why_not_installed
from monai_ext.ops.tiled_attention import check_window, tiled_attention

BACKENDS = ("natten",)


def neighbors(size: int, kernel: int, dilation: int) -> list[list[int]]:
    """For each token of an axis the tokens of its window."""
    out = []
    for i in range(size):
        same = list(range(i % dilation, size, dilation))
        start = min(max(same.index(i) - kernel // 2, 0), max(len(same) - kernel, 0))
        out.append(same[start : start + kernel])
    return out


def neighborhood_attention_plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    grid: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    table: torch.Tensor | None = None,
) -> torch.Tensor:
    """The definition with the (N, N) scores in memory, in the dtype of the inputs."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    seen = torch.zeros(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device)
    places = list(itertools.product(*(range(g) for g in grid)))
    number = {place: i for i, place in enumerate(places)}
    axes = [neighbors(*axis) for axis in zip(grid, kernel_size, dilation)]
    bias = torch.zeros_like(scores[0])
    for i, place in enumerate(places):
        for other in itertools.product(*(axis[p] for axis, p in zip(axes, place))):
            seen[i, number[other]] = True
            if table is not None:
                steps = ((b - a) // r + k - 1 for a, b, k, r in zip(place, other, kernel_size, dilation))
                bias[:, i, number[other]] = table[(slice(None), *steps)]
    return (scores + bias).masked_fill(~seen, -math.inf).softmax(-1) @ v


def neighborhood_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    grid: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    table: torch.Tensor | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """Softmax attention of each token to its k1 x k2 (x k3) nearest ones, with dilation.

    Along an axis with dilation r a token attends tokens of its own residue class modulo r only; counted within the
    class, its window of k tokens is centred on it, and shifted inwards where it would leave the grid, so that a
    token always attends k tokens an axis. Where a class has fewer than k tokens it attends all of them (the authors'
    package refuses this case). Scores are ``q k^T / sqrt(D)``, plus ``table[key - query + k - 1]`` (distances
    counted in steps of r) where a table of relative positions is given, as in the authors' first version.

    O(N K D) time with K = prod(k), times the share of masked scores of a tile (about 4 for 7 x 7); memory linear in
    N: q, k, v and their gradients, beside one block of scores (see ``monai_ext.ops.tiled_attention``). Not twice
    differentiable.

    Args:
        q: queries (B, H, N, D), in any strides; N is the row-major grid.
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        grid: tokens along each axis.
        kernel_size: tokens of the window along each axis, odd.
        dilation: distance between them along each axis.
        table: biases (H, 2 k1 - 1, 2 k2 - 1, ..) by relative position, or None.
        backend: ``"natten"`` for the authors' package, ``"torch"``, or ``"auto"`` for the first that can run.

    Returns:
        (B, H, N, D) in the dtype of q; scores and sums are in float32 at least, also under autocast

    Raises:
        ValueError: for shapes that do not fit each other, even windows, or a backend that cannot run this.
    """
    check_window(q, k, v, grid, kernel_size, dilation)
    wanted = (q.shape[1], *(2 * size - 1 for size in kernel_size))
    if table is not None and tuple(table.shape) != wanted:
        raise ValueError(f"the table of relative positions must be (H, 2 k - 1, ..) = {wanted}, got {table.shape}.")
    known: dict[str, Callable[[], str | None]] = {
        "natten": lambda: why_not_natten(q, grid, kernel_size, dilation, table)
    }
    if choose_backend(backend, known) == "natten":
        return _natten(q, k, v, grid, kernel_size, dilation)
    return tiled_attention(q, k, v, grid, kernel_size, dilation, True, table)


def why_not_natten(
    q: torch.Tensor,
    grid: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    table: torch.Tensor | None,
) -> str | None:
    """Why the package cannot run a case, or None."""
    if (reason := why_not_cuda(q) or why_not_installed("natten")) is not None:
        return reason
    if table is not None:
        return "it has no relative position bias."
    if any(size < 2 or size * r > g for g, size, r in zip(grid, kernel_size, dilation)):
        return (
            f"it takes windows of 2 tokens at least that fit the grid with their dilation, not {tuple(kernel_size)} "
            f"with dilation {tuple(dilation)} in a grid of {tuple(grid)}."
        )
    if q.dtype == torch.float64 or q.shape[-1] % 8:
        return f"it takes at most float32 and multiples of 8 channels a head, not {q.dtype} and {q.shape[-1]}."
    return None


def _natten(q, k, v, grid, kernel_size, dilation) -> torch.Tensor:
    import natten

    function = natten.na2d if len(grid) == 2 else natten.na3d
    # its layout is (B, *grid, H, D)
    q, k, v = (t.transpose(1, 2).unflatten(1, tuple(grid)).contiguous() for t in (q, k, v))
    out = function(q, k, v, kernel_size=tuple(kernel_size), dilation=tuple(dilation))
    return out.flatten(1, len(grid)).transpose(1, 2)
