"""The low block of a discrete cosine transform over a grid, and the way back (Ranjbar et al., "DCT-HistoTransformer",
arXiv 2410.19166, 2024; DCT: Ahmed et al., 1974).

Legend: B batch, N tokens, C channels, g1 .. gD the axes of the grid, k1 .. kD those of the kept block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def dct_low_plain(x: torch.Tensor, grid: Sequence[int], kept: Sequence[int]) -> torch.Tensor:
    """The definition: the whole orthonormal DCT-II along every axis, then its first coefficients."""
    x = x.unflatten(1, tuple(grid))
    for axis, (g, k) in enumerate(zip(grid, kept), start=1):
        rows = []
        for u in range(g):
            cosines = [math.cos(math.pi * (j + 0.5) * u / g) for j in range(g)]
            factor = math.sqrt((1 if u == 0 else 2) / g)
            rows.append(sum(factor * c * x.select(axis, j) for j, c in enumerate(cosines)))
        x = torch.stack(rows, axis).narrow(axis, 0, k)
    return x.flatten(1, len(grid))


def dct_low_inverse_plain(y: torch.Tensor, grid: Sequence[int], kept: Sequence[int]) -> torch.Tensor:
    """The definition: the coefficients followed by zeros, and the inverse (DCT-III) along every axis."""
    y = y.unflatten(1, tuple(kept))
    for axis, (g, k) in enumerate(zip(grid, kept), start=1):
        rows = []
        for j in range(g):
            cosines = [math.cos(math.pi * (j + 0.5) * u / g) for u in range(k)]
            factors = [math.sqrt((1 if u == 0 else 2) / g) for u in range(k)]
            rows.append(sum(f * c * y.select(axis, u) for u, (f, c) in enumerate(zip(factors, cosines))))
        y = torch.stack(rows, axis)
    return y.flatten(1, len(grid))


def kept_block(grid: Sequence[int], keep: Sequence[float]) -> tuple[int, ...]:
    """``ceil(keep g)`` coefficients along each axis, at least one; 0.1 of 30 is 3, whatever the rounding says."""
    return tuple(max(1, math.ceil(share * g - 1e-9)) for g, share in zip(grid, keep))


def dct_low(x: torch.Tensor, grid: Sequence[int], kept: Sequence[int]) -> torch.Tensor:
    """The first k1 .. kD coefficients of the orthonormal DCT-II over the grid.

    One product with a (k, g) matrix an axis: O(N C k) time for the first, less for the next; nothing of the size of x
    is kept for the backward. In float32 at least, also under autocast.

    Args:
        x: tokens (B, N, C), row-major over the grid.
        grid: g1 .. gD.
        kept: k1 .. kD, each at most the axis.

    Returns:
        (B, k1 * .. * kD, C), row-major over the block, in the dtype of x

    Raises:
        ValueError: where the tokens do not fill the grid, or the block does not fit into it.
    """
    _check(x, grid, grid, kept)
    acc = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        b, _, c = x.shape
        y, rest, before = x.to(acc), math.prod(grid), b
        for g, k in zip(grid, kept):
            rest = rest // g
            # the axis in the middle: no transposed copy of the tokens is made
            y = torch.bmm(_matrix(k, g, y).expand(before, -1, -1), y.reshape(before, g, rest * c))
            before = before * k
        return y.reshape(b, math.prod(kept), c).to(x.dtype)


def dct_low_inverse(y: torch.Tensor, grid: Sequence[int], kept: Sequence[int]) -> torch.Tensor:
    """The inverse of the orthonormal DCT-II for coefficients that are zero outside the block, ``dct_low``'s transpose.

    Args:
        y: coefficients (B, k1 * .. * kD, C), row-major over the block.
        grid: g1 .. gD.
        kept: k1 .. kD, each at most the axis.

    Returns:
        tokens (B, N, C), row-major over the grid, in the dtype of y

    Raises:
        ValueError: where the coefficients do not fill the block, or it does not fit into the grid.
    """
    _check(y, kept, grid, kept)
    acc = torch.promote_types(y.dtype, torch.float32)
    with torch.autocast(y.device.type, enabled=False):
        b, _, c = y.shape
        x, before, rest = y.to(acc), b * math.prod(kept), 1
        for g, k in reversed(list(zip(grid, kept))):
            before = before // k
            matrix = _matrix(k, g, x).t()
            x = torch.bmm(matrix.expand(before, -1, -1), x.reshape(before, k, rest * c))
            rest = rest * g
        return x.reshape(b, math.prod(grid), c).to(y.dtype)


def _matrix(k: int, g: int, like: torch.Tensor) -> torch.Tensor:
    """The first k rows of the orthonormal DCT-II matrix of size g."""
    u = torch.arange(k, device=like.device).unsqueeze(1)
    j = torch.arange(g, device=like.device)
    # a whole number of quarter turns of 1/g: reduced to one turn before it is rounded
    turn = (2 * j + 1) * u % (4 * g)
    matrix = (turn.to(like.dtype) * (math.pi / (2 * g))).cos() * math.sqrt(2 / g)
    return torch.where(u == 0, matrix * math.sqrt(0.5), matrix)


def _check(x: torch.Tensor, shape: Sequence[int], grid: Sequence[int], kept: Sequence[int]) -> None:
    if x.ndim != 3 or x.shape[1] != math.prod(shape):
        raise ValueError(f"expected (B, {math.prod(shape)}, C) for the axes {tuple(shape)}, got {tuple(x.shape)}.")
    if len(grid) != len(kept) or not all(1 <= k <= g for k, g in zip(kept, grid)):
        raise ValueError(f"the kept block {tuple(kept)} does not fit into a grid of {tuple(grid)}.")
