"""Softmax attention of the tokens of a grid to a window around each, tile by tile.

What ``neighborhood`` and ``local`` share. Along every axis the tokens of one residue class modulo the dilation are
cut into tiles of neighbouring queries; a tile and its halo, all keys that its windows reach, are a small dense
attention with a mask. Tiles with the same mask (there are few kinds: the interior and the borders of every axis) are
views of q, k and v, and are computed block by block, forward and backward. So no unfolded copy of the keys exists:
a halo is copied for the moment in which it is used, and the scores are computed anew in the backward.

Legend: B batch, H heads, N tokens, D channels of a head, G problems of a block, T queries of a tile, S keys of its
halo.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from monai_ext.ops.shapes import check_qkv

# Queries of a tile along each axis, by the number of axes: wider tiles share more keys, but mask more scores.
TILE = {1: 32, 2: 8, 3: 4}
# Scores of a block: what bounds the working memory. A CPU is fastest where they fit its cache.
BLOCK_CPU, BLOCK = 2**18, 2**24


class Run(NamedTuple):
    """Tiles along one axis that share their mask: ``count`` of them in each of ``classes`` residue classes."""

    classes: int
    first: int  # class of the first
    dilation: int
    tokens: int  # of a class
    count: int
    step: int  # from a tile to the next, in tokens of the class
    queries: tuple[int, int]  # first of the first tile, and how many
    keys: tuple[int, int]
    windows: tuple[tuple[int, int], ...]  # of each query of a tile: first key and the one after the last


def chunks(sizes: Sequence[int], limit: int) -> Iterator[tuple[slice, ...]]:
    """Cut an array of these sizes into blocks of at most ``limit`` elements (at least one), the last axes whole.

    The first size is that of the batch. A trace leaves the batch whole, so that it takes any.
    """
    steps: list[int] = []
    tracing = torch.jit.is_tracing()
    sizes = (1, *sizes[1:]) if tracing else sizes
    room = max(1, limit)
    for size in reversed(sizes):
        steps.insert(0, max(1, min(size, room)))
        room = max(1, room // steps[0])
    cuts = [[slice(i, min(i + step, size)) for i in range(0, size, step)] for size, step in zip(sizes, steps)]
    if tracing:
        cuts[0] = [slice(None)]
    yield from itertools.product(*cuts)


def block_size(x: torch.Tensor) -> int:
    """Scores that are held at a time on the device of a tensor."""
    return BLOCK_CPU if x.device.type == "cpu" else BLOCK


def empty_heads(x: torch.Tensor, dtype: torch.dtype, zeros: bool = False) -> torch.Tensor:
    """(B, H, N, D) whose memory is ordered (B, N, H, D), so that merging the heads needs no copy."""
    b, h, n, d = x.shape
    make = torch.zeros if zeros else torch.empty
    return make((b, n, h, d), dtype=dtype, device=x.device).transpose(1, 2)


def window(at: int, tokens: int, kernel: int, clamp: bool) -> tuple[int, int]:
    """The keys of one query along an axis, from the first to the one after the last.

    Args:
        at: place of the query.
        tokens: tokens of the axis.
        kernel: keys of a window.
        clamp: shift a window that would leave the axis inwards (neighborhood), or clip it (local).
    """
    start = at - kernel // 2
    if clamp:
        start = max(0, min(start, tokens - kernel))
    return max(0, start), min(start + kernel, tokens)


def runs_of_axis(size: int, kernel: int, dilation: int, tile: int, clamp: bool) -> list[Run]:
    """The tiles of an axis, grouped by kind."""
    runs = []
    more = size % dilation  # as many classes have one token more than the others
    for first, classes, tokens in ((0, more, size // dilation + 1), (more, dilation - more, size // dilation)):
        if not classes or not tokens:
            continue
        length = math.ceil(tokens / math.ceil(tokens / tile))
        kinds: list[tuple[Any, int]] = []  # what makes the kind, first query
        for start in range(0, tokens, length):
            number = min(length, tokens - start)
            spans = [window(start + i, tokens, kernel, clamp) for i in range(number)]
            keys = spans[0][0]
            relative = tuple((a - keys, b - keys) for a, b in spans)
            kinds.append(((number, keys - start, spans[-1][1] - keys, relative), start))
        for (number, shift, halo, spans), group in itertools.groupby(kinds, key=lambda item: item[0]):
            starts = [start for _, start in group]
            runs.append(
                Run(
                    classes=classes,
                    first=first,
                    dilation=dilation,
                    tokens=tokens,
                    count=len(starts),
                    step=length if len(starts) > 1 else halo,
                    queries=(starts[0], number),
                    keys=(starts[0] + shift, halo),
                    windows=spans,
                )
            )
    return runs


def tiled(x: torch.Tensor, runs: Sequence[Run], spans: Sequence[tuple[int, int]]) -> torch.Tensor:
    """A view of (B, H, *grid, D) as (B, *classes, *counts, H, *spans, D): the tiles, or parts of their halos.

    Args:
        x: the map.
        runs: the tiles along each axis.
        spans: first token and number of tokens of the first tile, for each axis.
    """
    axes = len(runs)
    for axis, (run, (start, size)) in enumerate(zip(runs, spans), start=2):
        reach = (run.tokens - 1) * run.dilation + run.classes
        x = x.narrow(axis, run.first, reach).unfold(axis, run.classes, run.dilation)
        x = x.narrow(axis, start, (run.count - 1) * run.step + size).unfold(axis, size, run.step)
    last = 2 + axes  # the channels; then classes and span of each axis
    classes, inside = range(last + 1, last + 1 + 2 * axes, 2), range(last + 2, last + 2 + 2 * axes, 2)
    return x.permute(0, *classes, *range(2, last), 1, *inside, last)


class Tiles:
    """All tiles of one kind in a map, with their mask.

    Args:
        runs: the kind, for each axis.
        kernel: keys of a window along each axis.
        clamp: see ``window``.
        like: a tensor of the device and dtype of the scores.
        table: relative position biases (H, 2 k1 - 1, ..), or None.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        kernel: Sequence[int],
        clamp: bool,
        like: torch.Tensor,
        table: torch.Tensor | None,
    ) -> None:
        self.runs = runs
        self.queries = [run.queries for run in runs]
        self.keys = [run.keys for run in runs]
        self.t = math.prod([size for _, size in self.queries])
        self.s = math.prod([size for _, size in self.keys])
        axes = len(runs)
        seen = torch.ones((), dtype=torch.bool, device=like.device)
        number = torch.ones((), dtype=torch.long, device=like.device)  # of keys inside of the grid
        index = torch.zeros((), dtype=torch.long, device=like.device)
        for axis, (run, k) in enumerate(zip(runs, kernel)):
            first, after = torch.tensor(run.windows, device=like.device).unbind(-1)
            key = torch.arange(run.keys[1], device=like.device)
            query = torch.arange(run.queries[1], device=like.device)[:, None]
            shape = [1] * (2 * axes)
            shape[axis], shape[axes + axis] = run.queries[1], run.keys[1]
            seen = seen & ((key >= first[:, None]) & (key < after[:, None])).view(shape)
            number = number[..., None] * (after - first)
            relative = (key + run.keys[0] - query - run.queries[0] + k - 1).clamp(0, 2 * k - 2)
            index = index * (2 * k - 1) + relative.view(shape)
        seen = seen.reshape(self.t, self.s)
        self.index = index.reshape(-1)
        bias = like.new_zeros(1, 1, 1) if table is None else table.flatten(1)[:, self.index].view(-1, self.t, self.s)
        self.bias = bias.masked_fill(~seen, -math.inf)
        # positions outside of the grid are keys and values of zeros: one such key stands for all of them
        outside = math.prod(kernel) - number.reshape(self.t, 1)
        self.padded = not clamp and any([b - a < k for run, k in zip(runs, kernel) for a, b in run.windows])
        if self.padded:
            self.bias = torch.cat([self.bias, outside.to(like.dtype).log().expand(len(self.bias), -1, -1)], -1)

    def blocks(self, x: torch.Tensor) -> Iterator[tuple[slice, ...]]:
        """Index blocks of the tiles that are computed at a time; the last slice is of heads."""
        sizes = [x.shape[0], *(run.classes for run in self.runs), *(run.count for run in self.runs), x.shape[1]]
        return chunks(sizes, block_size(x) // (self.t * self.bias.shape[-1]))

    def rows(self, x: torch.Tensor, size: int, dtype: torch.dtype) -> torch.Tensor:
        """A block of queries (G, T, D)."""
        return x.to(dtype).reshape(-1, size, x.shape[-1])

    def halo(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A block of keys or values (G, S, D), with the row of zeros that stands for what is outside."""
        x = self.rows(x, self.s, dtype)
        return F.pad(x, (0, 0, 0, 1)) if self.padded else x

    def weights(self, q: torch.Tensor, k: torch.Tensor, scale: float, heads: slice) -> torch.Tensor:
        """Attention weights (G, T, S)."""
        bias = self.bias
        if len(bias) > 1:
            bias = bias[heads]
            bias = bias.repeat(q.shape[0] // bias.shape[0], 1, 1)
        else:
            bias = bias.expand(q.shape[0], -1, -1)
        return torch.baddbmm(bias, q, k.transpose(-2, -1), alpha=scale).softmax(-1)

    def pieces(self) -> Iterator[tuple[list[tuple[int, int]], tuple[slice, ...]]]:
        """The halo in parts that do not overlap with those of the next tile: where they are, and in the halo."""
        cuts = [
            [(start + i, min(run.step, size - i), i) for i in range(0, size, run.step)]
            for run, (start, size) in zip(self.runs, self.keys)
        ]
        for parts in itertools.product(*cuts):
            yield [(start, size) for start, size, _ in parts], tuple(slice(i, i + size) for _, size, i in parts)

    def add_halo(self, total: torch.Tensor, part: torch.Tensor, block: tuple[slice, ...]) -> None:
        """Add a block of gradients (G, S, D) of halos to the map."""
        part = part[:, : self.s]
        for spans, inside in self.pieces():
            target = tiled(total, self.runs, spans)[block]
            source = part.reshape(*target.shape[: len(block)], *(size for _, size in self.keys), -1)
            target.add_(source[(..., *inside, slice(None))])


def all_tiles(
    grid: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    clamp: bool,
    like: torch.Tensor,
    table: torch.Tensor | None,
) -> Iterator[Tiles]:
    """Every kind of tile of a grid."""
    axes = [runs_of_axis(g, k, r, TILE[len(grid)], clamp) for g, k, r in zip(grid, kernel, dilation)]
    for runs in itertools.product(*axes):
        yield Tiles(runs, kernel, clamp, like, table)


def check_window(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    grid: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
) -> None:
    """Refuse q, k and v of different shapes, a grid that the tokens do not fill, and windows that are none.

    Raises:
        ValueError: for q, k, v that do not share one shape (B, H, N, D), a grid of another number of tokens, even
            windows or dilations below 1.
    """
    check_qkv(q, k, v)
    if math.prod(grid) != q.shape[2] or not len(grid) == len(kernel_size) == len(dilation):
        raise ValueError(
            f"{q.shape[2]} tokens do not fill a grid of {tuple(grid)}, or the window {tuple(kernel_size)} with "
            f"dilation {tuple(dilation)} has other axes."
        )
    if any(size < 1 or size % 2 == 0 for size in kernel_size) or any(r < 1 for r in dilation):
        raise ValueError(
            f"kernel_size must be odd and dilation at least 1, got {tuple(kernel_size)} and {tuple(dilation)}."
        )


def tiled_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    grid: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    clamp: bool,
    table: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax attention to a window of each query's residue class.

    Args:
        q: queries (B, H, N, D), in any strides.
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        grid: tokens along each axis.
        kernel: keys of a window along each axis, odd.
        dilation: distance of its keys along each axis.
        clamp: what happens at the borders: the window is shifted inwards, or what is outside counts as keys and
            values of zeros.
        table: biases (H, 2 k1 - 1, ..) by the distance of key and query, or None.

    Returns:
        (B, H, N, D) in the dtype of q; computed in float32 at least, also under autocast
    """
    grid, kernel, dilation = tuple(grid), tuple(kernel), tuple(dilation)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (q, k, v, table)):
        return _Tiled.apply(q, k, v, table, grid, kernel, dilation, clamp)
    return _forward(q, k, v, table, grid, kernel, dilation, clamp)


def _forward(q, k, v, table, grid, kernel, dilation, clamp) -> torch.Tensor:
    acc, scale = torch.promote_types(q.dtype, torch.float32), q.shape[-1] ** -0.5
    with torch.autocast(q.device.type, enabled=False):
        out = empty_heads(q, q.dtype)
        like = q.new_empty(0, dtype=acc)
        qs, ks, vs, outs = (t.unflatten(2, grid) for t in (q, k, v, out))
        for tiles in all_tiles(grid, kernel, dilation, clamp, like, None if table is None else table.to(acc)):
            q_tiles, out_tiles = (tiled(t, tiles.runs, tiles.queries) for t in (qs, outs))
            k_tiles, v_tiles = (tiled(t, tiles.runs, tiles.keys) for t in (ks, vs))
            for block in tiles.blocks(q):
                weights = tiles.weights(
                    tiles.rows(q_tiles[block], tiles.t, acc), tiles.halo(k_tiles[block], acc), scale, block[-1]
                )
                target = out_tiles[block]
                target.copy_((weights @ tiles.halo(v_tiles[block], acc)).view(target.shape))
    return out


class _Tiled(torch.autograd.Function):
    """Keeps q, k and v, and computes the weights of a block anew in the backward."""

    @staticmethod
    def forward(ctx: Any, q, k, v, table, grid, kernel, dilation, clamp) -> torch.Tensor:
        ctx.save_for_backward(q, k, v, table)
        ctx.geometry = (grid, kernel, dilation, clamp)
        return _forward(q, k, v, table, grid, kernel, dilation, clamp)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, table = ctx.saved_tensors
        grid, kernel, dilation, clamp = ctx.geometry
        acc, scale = torch.promote_types(q.dtype, torch.float32), q.shape[-1] ** -0.5
        with torch.autocast(q.device.type, enabled=False):
            dq, dk, dv = empty_heads(q, q.dtype), empty_heads(q, acc, zeros=True), empty_heads(q, acc, zeros=True)
            like = q.new_empty(0, dtype=acc)
            dtable = None if table is None else torch.zeros_like(table, dtype=acc).flatten(1)
            qs, ks, vs, gs, dqs, dks, dvs = (t.unflatten(2, grid) for t in (q, k, v, grad, dq, dk, dv))
            for tiles in all_tiles(grid, kernel, dilation, clamp, like, None if table is None else table.to(acc)):
                q_tiles, g_tiles, dq_tiles = (tiled(t, tiles.runs, tiles.queries) for t in (qs, gs, dqs))
                k_tiles, v_tiles = (tiled(t, tiles.runs, tiles.keys) for t in (ks, vs))
                for block in tiles.blocks(q):
                    qb, gb = (tiles.rows(t[block], tiles.t, acc) for t in (q_tiles, g_tiles))
                    kb, vb = tiles.halo(k_tiles[block], acc), tiles.halo(v_tiles[block], acc)
                    weights = tiles.weights(qb, kb, scale, block[-1])
                    tiles.add_halo(dvs, weights.transpose(-2, -1) @ gb, block)
                    ds = gb @ vb.transpose(-2, -1)
                    ds = weights.mul_(ds.sub_((weights * ds).sum(-1, keepdim=True)))
                    if dtable is not None:
                        heads = block[-1].stop - block[-1].start
                        summed = ds.view(-1, heads, tiles.t * tiles.s).sum(0)
                        dtable[block[-1]].index_add_(1, tiles.index, summed)
                    target = dq_tiles[block]
                    target.copy_((ds @ kb).mul_(scale).view(target.shape))
                    tiles.add_halo(dks, (ds.transpose(-2, -1) @ qb).mul_(scale), block)
            if dtable is not None:
                dtable = dtable.view(table.shape).to(table.dtype)
        return dq, dk.to(k.dtype), dv.to(v.dtype), dtable, None, None, None, None
