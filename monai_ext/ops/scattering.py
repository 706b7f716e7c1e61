"""The first level of the dual-tree complex wavelet transform in 2D and 3D, and the mixing of its bands.

Kingsbury, "Image processing with complex wavelets" (1999); 3D: Chen and Kingsbury, "Efficient registration of nonrigid
3-D bodies" (IEEE TIP 21(1), 2012); mixing: Patro and Agneeswaran, "Scattering Vision Transformer" (arXiv 2311.01310).

Legend: B batch, C channels, D axes, g1 .. gD the grid (even numbers), T oriented bands: 6 in 2D, 28 in 3D.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Kingsbury's biorthogonal filters near_sym_b (13 and 19 taps), of which each is symmetric: the taps up to the middle.
# The synthesis filters are these with every other sign turned, the low one from the high one.
LOW = [t / 5120 for t in (-9, 0, 114, -240, -247, 1520, 2844)]
HIGH = [t / 1146880 for t in (-81, 0, 1539, -2160, -8208, 27360, 63816, -59280, -343786, 641600)]
# rows of a banded operator that are computed at a time
ROWS = 32

Operators = Sequence[tuple[torch.Tensor, torch.Tensor]]


def filters(synthesis: bool = False) -> tuple[list[float], list[float]]:
    """The taps of the low and the high filter."""
    low, high = ([*half, *reversed(half[:-1])] for half in (LOW, HIGH))
    if not synthesis:
        return low, high
    # odd offsets from the middle change their signs
    return tuple([t * (-1) ** (i - len(f) // 2) for i, t in enumerate(f)] for f in (high, low))  # type: ignore


def wavelet_split_plain(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition of ``wavelet_split``, tap by tap."""
    parts = [x]
    for axis in range(1, x.ndim - 1):
        parts = [_filter_plain(p, taps, axis) for p in parts for taps in filters()]
    return parts[0], torch.stack([t for p in parts[1:] for t in _to_complex(p)], -2).unflatten(-2, (-1, 2))


def wavelet_join_plain(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """The definition of ``wavelet_join``, tap by tap."""
    size = 2 ** (low.ndim - 2)
    bands = high.flatten(-3, -2).unbind(-2)
    parts = [low, *(_from_complex(bands[i : i + size]) for i in range(0, len(bands), size))]
    for axis in reversed(range(1, low.ndim - 1)):
        pairs = zip(parts[::2], parts[1::2])
        parts = [sum(_filter_plain(p, taps, axis) for p, taps in zip(pair, filters(True))) for pair in pairs]
    return parts[0]


def _filter_plain(x: torch.Tensor, taps: Sequence[float], axis: int) -> torch.Tensor:
    n = x.shape[axis]
    out = []
    for i in range(n):
        total = torch.zeros_like(x.select(axis, 0))
        for t, tap in enumerate(taps):
            at = (i + t - len(taps) // 2) % (2 * n)  # the axis and its mirror image, edge repeated, without end
            total = total + tap * x.select(axis, min(at, 2 * n - 1 - at))
        out.append(total)
    return torch.stack(out, axis)


def wavelet_split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Low band and oriented complex bands of the first level.

    Each axis is filtered with the low and the high filter, the image going on as its mirror image; nothing is
    decimated. Of the 2^D results the first is the low band. In each of the others the 2^D samples of a cell of two
    grid points an axis are those of the two trees of each axis, and become 2^(D - 1) complex numbers
    ``2^(-(D - 1) / 2) sum_e prod_a (s_a i)^(e_a) y[e]``, with s = +1 for the last axis and either sign for the
    others: the oriented bands, which tell the diagonals apart. O(N) time.

    Args:
        x: (B, g1 .. gD, C), all g even.

    Returns:
        low (B, g1 .. gD, C) and high (B, g1 / 2 .. gD / 2, T, 2, C), real and imaginary parts

    Raises:
        ValueError: for an axis of odd length.
    """
    grid = x.shape[1:-1]
    if any(g % 2 for g in grid):
        raise ValueError(f"the axes of the grid must be even, got {tuple(grid)}: pad the image.")
    operators = [_operators(g, x, synthesis=False) for g in grid]
    if torch.is_grad_enabled() and x.requires_grad:
        return _Split.apply(x, operators)
    return _split(x, operators)


def wavelet_join(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """The inverse of ``wavelet_split``: exact, apart from rounding.

    Args:
        low: (B, g1 .. gD, C).
        high: (B, g1 / 2 .. gD / 2, T, 2, C).

    Returns:
        (B, g1 .. gD, C)
    """
    operators = [_operators(g, low, synthesis=True) for g in low.shape[1:-1]]
    if torch.is_grad_enabled() and (low.requires_grad or high.requires_grad):
        return _Join.apply(low, high, operators)
    return _join(low, high, operators)


def blend_channels(
    high: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
) -> torch.Tensor:
    """Complex layers over the channels, with a ReLU of real and imaginary parts between them.

    Args:
        high: (…, 2, C).
        weights: (2, C, C) each, real and imaginary part, from rows to columns.
        biases: (2, C) each.

    Returns:
        (…, 2, C)
    """
    h = high.flatten(-2)
    for number, ((real, imag), bias) in enumerate(zip(weights, biases)):
        # (a + ib)(r + ii) as one real product
        both = torch.cat([torch.cat([real, imag], 1), torch.cat([-imag, real], 1)])
        h = torch.nn.functional.linear(h.relu() if number else h, both.T, bias.flatten())
    return h.unflatten(-1, (2, -1))


def blend_rows(high: torch.Tensor, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> torch.Tensor:
    """Complex layers over the places of a row, other ones in every row, with a ReLU between them (2D).

    Args:
        high: (B, h, w, T, 2, C).
        weights: (2, h, w, w) each, from the third axis to the fourth.
        biases: (2, h, w) each.

    Returns:
        (B, h, w, T, 2, C)
    """
    shape = high.shape[:3] + high.shape[3:4] + high.shape[5:]
    a, b = (t.flatten(3) for t in high.unbind(4))
    for number, (weight, bias) in enumerate(zip(weights, biases)):
        if number:
            a, b = a.relu(), b.relu()
        (real, imag), (shift, turn) = weight.transpose(-2, -1), bias.unsqueeze(-1)
        a, b = real @ a - imag @ b + shift, imag @ a + real @ b + turn
    return torch.stack([a.view(shape), b.view(shape)], 4)


def _operators(n: int, like: torch.Tensor, synthesis: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The low and the high filter along an axis of n points as banded matrices (n, n)."""
    found = []
    for taps in filters(synthesis):
        at = torch.arange(n).unsqueeze(-1) + torch.arange(len(taps)) - len(taps) // 2
        at = at % (2 * n)
        values = torch.tensor(taps, dtype=torch.float64).expand(n, -1)
        matrix = torch.zeros(n, n, dtype=torch.float64).scatter_add(1, torch.minimum(at, 2 * n - 1 - at), values)
        found.append(matrix.to(like))
    return found[0], found[1]


def _along(x: torch.Tensor, matrix: torch.Tensor, axis: int) -> torch.Tensor:
    """A banded matrix times one axis of x."""
    n, band = x.shape[axis], len(HIGH) - 1
    flat = x.reshape(-1, n, x.shape[axis + 1 :].numel())
    if n <= ROWS + 2 * band:
        return (matrix @ flat).view(x.shape)
    out = torch.empty_like(flat)
    for i in range(0, n, ROWS):
        rows, columns = slice(i, min(i + ROWS, n)), slice(max(i - band, 0), min(i + ROWS + band, n))
        out[:, rows] = matrix[rows, columns] @ flat[:, columns]
    return out.view(x.shape)


def _signs(dims: int) -> list[list[tuple[int, float]]]:
    """For each complex part (band by band, real then imaginary) the samples of a cell and their weights."""
    cells, scale, found = list(itertools.product((0, 1), repeat=dims)), 2 ** (-(dims - 1) / 2), []
    for signs in itertools.product((1, -1), repeat=dims - 1):
        parts: list[list[tuple[int, float]]] = [[], []]
        for number, e in enumerate(cells):
            sign = -1 if sum(e) >= 2 else 1  # i^2 = -1, i^3 = -i
            for s, bit in zip(signs, e):
                sign *= s if bit else 1
            parts[sum(e) % 2].append((number, sign * scale))
        found += parts
    return found


def _to_complex(y: torch.Tensor) -> list[torch.Tensor]:
    """(B, g1 .. gD, C) as 2^D parts (B, g1 / 2 .. gD / 2, C), by the definition."""
    dims = y.ndim - 2
    cells = [y[(slice(None), *(slice(b, None, 2) for b in e))] for e in itertools.product((0, 1), repeat=dims)]
    return [sum(weight * cells[number] for number, weight in part) for part in _signs(dims)]


def _from_complex(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The inverse of ``_to_complex``, whose map is orthogonal: its transpose."""
    dims = parts[0].ndim - 2
    out = parts[0].new_empty(parts[0].shape[0], *(2 * g for g in parts[0].shape[1:-1]), parts[0].shape[-1])
    weights: list[list[tuple[int, float]]] = [[] for _ in parts]
    for index, part in enumerate(_signs(dims)):
        for number, weight in part:
            weights[number].append((index, weight))
    for e, terms in zip(itertools.product((0, 1), repeat=dims), weights):
        value = sum(weight * parts[index] for index, weight in terms)
        out[(slice(None), *(slice(b, None, 2) for b in e))] = value
    return out


def _sign_matrix(like: torch.Tensor) -> torch.Tensor:
    """``_signs`` as a matrix (2^D, 2^D), from the samples of a cell to complex parts."""
    signs = _signs(like.ndim - 2)
    matrix = [[0.0] * len(signs) for _ in signs]
    for row, part in zip(matrix, signs):
        for number, weight in part:
            row[number] = weight
    return torch.tensor(matrix, dtype=like.dtype, device=like.device)


def _cells(y: torch.Tensor) -> torch.Tensor:
    """(B, g1 .. gD, C) as (B, g1 / 2 .. gD / 2, 2^D, C)."""
    dims = y.ndim - 2
    split = y.view(y.shape[0], *(s for g in y.shape[1:-1] for s in (g // 2, 2)), y.shape[-1])
    order = [0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1]
    return split.permute(order).reshape(y.shape[0], *(g // 2 for g in y.shape[1:-1]), 2**dims, y.shape[-1])


def _from_cells(cells: torch.Tensor) -> torch.Tensor:
    """The inverse of ``_cells``."""
    grid = cells.shape[1:-2]
    dims = len(grid)
    split = cells.unflatten(-2, (2,) * dims)
    order = [0, *(a for axis in range(1, dims + 1) for a in (axis, axis + dims)), 2 * dims + 1]
    return split.permute(order).reshape(cells.shape[0], *(2 * g for g in grid), cells.shape[-1])


def _split(x: torch.Tensor, operators: Operators) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [x]
    for axis, pair in enumerate(operators, start=1):
        parts = [_along(part, matrix, axis) for part in parts for matrix in pair]
    signs = _sign_matrix(x)
    high = torch.cat([signs @ _cells(part) for part in parts[1:]], -2)
    return parts[0], high.unflatten(-2, (-1, 2))


def _join(low: torch.Tensor, high: torch.Tensor, operators: Operators) -> torch.Tensor:
    signs = _sign_matrix(low)
    # an orthogonal map: its inverse is its transpose
    parts = [low, *(_from_cells(signs.T @ part) for part in high.flatten(-3, -2).split(len(signs), -2))]
    for axis in reversed(range(len(operators))):
        a, b = operators[axis]
        pairs = zip(parts[::2], parts[1::2])
        parts = [_along(p, a, axis + 1) + _along(q, b, axis + 1) for p, q in pairs]
    return parts[0]


def _transposed(operators: Operators) -> Operators:
    return [(a.T, b.T) for a, b in operators]


class _Split(torch.autograd.Function):
    """A linear map, whose transpose is a join with the transposed operators: nothing is kept for the backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, operators: Operators) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.operators = operators
        return _split(x, operators)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _join(low, high, _transposed(ctx.operators)), None


class _Join(torch.autograd.Function):
    """The same the other way round."""

    @staticmethod
    def forward(ctx: Any, low: torch.Tensor, high: torch.Tensor, operators: Operators) -> torch.Tensor:
        ctx.operators = operators
        return _join(low, high, operators)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return *_split(grad, _transposed(ctx.operators)), None
