"""Softmax attention within the windows of a grid, with relative positions (Liu et al., "Swin Transformer", 2021).

Legend: B batch, N tokens of the grid, W windows, n tokens of a window, H heads, D channels of a head, C = H D,
R rows of the table of relative positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

MASKED = -100.0  # the score that Swin and MONAI add between regions that are not neighbours
# Scores of a block that is worked on at a time, and of the part of the bias that they share: what bounds the working
# memory. A CPU is fastest where a block fits its cache.
BLOCK_CPU, BLOCK = 2**19, 2**26
BIAS_BLOCK_CPU, BIAS_BLOCK = 2**20, 2**24
# Heads with fewer channels are slow in a CPU's fused attention, and in products whose result is that narrow.
NARROW = 16

Groups = Sequence[tuple[int, torch.Tensor | None]]


def grid_code(grid: Sequence[int]) -> torch.Tensor:
    """For every token of a grid a number (n), n = prod(grid), whose differences tell offsets apart.

    ``code[i] - code[j] + (R - 1) / 2`` is the row of the pair (i, j) in a table with R rows, row-major over the
    offsets, each from ``-(g - 1)`` to ``g - 1``: the layout of Swin's and MONAI's tables.
    """
    code = torch.zeros(tuple(grid), dtype=torch.long)
    for axis, g in enumerate(grid):
        shape = [1] * len(grid)
        shape[axis] = g
        code = code * (2 * g - 1) + torch.arange(g).view(shape)
    return code.flatten()


def window_bias(table: torch.Tensor, code: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
    """The score bias (H, rows, n) from a table (R, H) of relative positions.

    Args:
        table: one row for every offset between two tokens of a window, row-major.
        code: (n), as ``grid_code`` of the window, or the first n of it.
        rows: queries that are wanted.
    """
    index = _table_rows(table, code, rows)
    return table.t().index_select(1, index.flatten()).view(-1, *index.shape)


def _table_rows(table: torch.Tensor, code: torch.Tensor, rows: slice) -> torch.Tensor:
    return code[rows, None] - code[None, :] + (len(table) - 1) // 2


def region_mask(region: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
    """The mask (…, rows, n) between tokens of different regions (…, n)."""
    return torch.zeros((), device=region.device).where(region[..., rows, None] == region[..., None, :], MASKED)


def window_attention_plain(
    qkv: torch.Tensor,
    pad: torch.Tensor | None,
    table: torch.Tensor,
    code: torch.Tensor,
    index: torch.Tensor,
    inverse: torch.Tensor,
    groups: Groups,
    dropout_p: float = 0.0,
) -> torch.Tensor:
    """The definition: windows as a copy, and the scores of all of them in memory."""
    b, n_all, c3 = qkv.shape
    h, n = table.shape[1], len(code)
    rows = qkv if pad is None else torch.cat([qkv, pad.expand(b, 1, c3)], 1)
    q, k, v = rows.index_select(1, index).view(b, -1, n, 3, h, c3 // (3 * h)).permute(3, 0, 1, 4, 2, 5)
    masks = [
        torch.zeros(count, 1, n, n, device=qkv.device) if region is None else region_mask(region).expand(count, 1, n, n)
        for count, region in groups
    ]
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + window_bias(table, code) + torch.cat(masks)
    out = F.dropout(scores.softmax(-1), dropout_p) @ v.to(scores.dtype)
    return out.transpose(2, 3).reshape(b, -1, c3 // 3).index_select(1, inverse)[:, :n_all].to(qkv.dtype)


def window_attention(
    qkv: torch.Tensor,
    pad: torch.Tensor | None,
    table: torch.Tensor,
    code: torch.Tensor,
    index: torch.Tensor,
    inverse: torch.Tensor,
    groups: Groups,
    dropout_p: float = 0.0,
) -> torch.Tensor:
    """``softmax(q k^T / sqrt(D) + bias + mask) v`` within each window of a grid.

    The projections come in and go out in the order of the grid; windows are gathered sample by sample, padding
    included, and no mask or bias of the size of all windows exists. Neither scores nor weights are kept: the backward
    makes them anew, block by block, from the projections, which are all it keeps; so memory is linear in N whatever
    the window. The forward is one fused call for every kind of mask; on a CPU with less than ``NARROW`` channels a
    head, or with dropout, it works in blocks, too. Softmax and sums are in float32 at least, also under autocast. Not
    twice differentiable.

    Args:
        qkv: queries, keys and values of the tokens (B, N, 3C).
        pad: the same of a token of padding (3C); None where there is no padding.
        table: relative positions (R, H).
        code: (n), see ``window_bias``.
        index: (W n) for every place in a window its token, or N for padding.
        inverse: (N) for every token its place in ``index``.
        groups: for each kind of mask the number of its windows, which are neighbours in ``index``, and the regions
            (n) of a window that do not see each other, or None. In an export also (number, n): of each window.
        dropout_p: dropout of the attention weights. It applies whenever it is above 0.

    Returns:
        (B, N, C) in the dtype of qkv

    Raises:
        ValueError: where the windows are not those of the index, or the heads do not divide the channels.
    """
    # neither a trace nor an export can keep a Python function, and sizes may be open
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return _composite(qkv, pad, table, code, index, inverse, groups, dropout_p)
    n, windows = len(code), sum(count for count, _ in groups)
    if len(index) != windows * n or len(inverse) != qkv.shape[1]:
        raise ValueError(
            f"{windows} windows of {n} tokens for a grid of {qkv.shape[1]} do not fit an index of {len(index)} places "
            f"and an inverse of {len(inverse)}."
        )
    if qkv.shape[2] % (3 * table.shape[1]):
        raise ValueError(f"{qkv.shape[2]} channels are not those of q, k and v in {table.shape[1]} heads.")
    wants = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (qkv, pad, table))
    if dropout_p and torch.compiler.is_compiling():  # its graph has no generator of its own
        return window_attention_plain(qkv, pad, table, code, index, inverse, groups, dropout_p)
    seed = int(torch.randint(2**62, ())) if dropout_p else 0
    if wants:
        regions = [region for _, region in groups]
        counts = [count for count, _ in groups]
        return _WindowAttention.apply(qkv, pad, table, code, index, inverse, counts, dropout_p, seed, *regions)
    return _forward(qkv, pad, table, code, index, inverse, groups, dropout_p, seed)


def _composite(qkv, pad, table, code, index, inverse, groups: Groups, dropout_p: float) -> torch.Tensor:
    """One fused call for every kind of mask, of nothing but operators of PyTorch."""
    b, _, c3 = qkv.shape
    n, h, acc, parts = len(code), table.shape[1], torch.promote_types(qkv.dtype, torch.float32), []
    with torch.autocast(qkv.device.type, enabled=False):
        rows = qkv if pad is None else torch.cat([qkv, pad.to(qkv.dtype).expand(b, 1, c3)], 1)
        windows = rows.index_select(1, index).view(b, -1, n, 3, h, c3 // (3 * h))
        bias = window_bias(table.to(acc), code)
        for group, (_, region) in zip(windows.split([count for count, _ in groups], 1), groups):
            q, k, v = group.flatten(0, 1).permute(2, 0, 3, 1, 4).unbind(0)
            masked = bias.unsqueeze(0)
            if region is not None:
                mask = region_mask(region)
                masked = masked + (mask if mask.ndim == 2 else mask.unsqueeze(1).repeat(b, 1, 1, 1))
            masked = masked.to(q.dtype)
            part = F.scaled_dot_product_attention(q, k, v, attn_mask=masked, dropout_p=dropout_p)
            parts.append(part.transpose(1, 2).reshape(b, -1, c3 // 3))
        return torch.cat(parts, 1).index_select(1, inverse)


def _for_cpu(device: torch.device) -> bool:
    """Whether to work as suits a CPU; in a compiled graph every block would be code of its own."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def _budget(device: torch.device) -> int:
    return BLOCK_CPU if _for_cpu(device) else BLOCK


def _bias_budget(device: torch.device) -> int:
    return BIAS_BLOCK_CPU if _for_cpu(device) else BIAS_BLOCK


def _is_narrow(x: torch.Tensor) -> bool:
    return x.shape[-1] < NARROW and _for_cpu(x.device)


def _times(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b`` (…, n, D), as a view of its transpose where that is faster."""
    return (b.mT @ a.mT).mT if _is_narrow(b) else a @ b


class _Block(NamedTuple):
    """Scores that are worked on at a time: some queries of some windows of one kind."""

    number: int
    rows: slice
    windows: slice
    region: torch.Tensor | None
    new_rows: bool
    last_of_rows: bool
    new_bias: bool


def _blocks(n: int, h: int, groups: Groups, budget: int | None, bias_budget: int) -> list[_Block]:
    """Rows of a window outside, windows inside, so that neighbours share a bias of bounded size.

    Without a budget all windows of a kind are one block.
    """
    rows = min(n, max(1, bias_budget // (h * n)))
    step = None if budget is None else max(1, budget // (h * rows * n))
    blocks: list[_Block] = []
    for top in range(0, n, rows):
        of_window, first, parts = slice(top, min(top + rows, n)), 0, []
        for count, region in groups:
            starts = [first] if step is None else range(first, first + count, step)
            for i, start in enumerate(starts):
                stop = first + count if step is None else min(start + step, first + count)
                parts.append((slice(start, stop), region, i == 0))
            first += count
        for i, (at, region, new_bias) in enumerate(parts):
            blocks.append(_Block(len(blocks), of_window, at, region, i == 0, i == len(parts) - 1, new_bias))
    return blocks


def _windows(qkv: torch.Tensor, pad: torch.Tensor | None, index: torch.Tensor, n: int, h: int) -> torch.Tensor:
    """One sample (N, 3C) as windows (3, W, H, n, D)."""
    rows = qkv if pad is None else torch.cat([qkv, pad.to(qkv.dtype).unsqueeze(0)])
    return rows.index_select(0, index).view(-1, n, 3, h, qkv.shape[1] // (3 * h)).permute(2, 0, 3, 1, 4)


def _dropped(shape: torch.Size, p: float, seed: int, block: int, like: torch.Tensor) -> torch.Tensor:
    """What the weights of a block are multiplied with."""
    rng = torch.Generator(like.device).manual_seed((seed + block) % 2**62)
    return torch.empty(shape, dtype=like.dtype, device=like.device).bernoulli_(1 - p, generator=rng) / (1 - p)


def _weights(q: torch.Tensor, k: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    if len(q) == 1 and q.dtype == bias.dtype:  # one pass over the scores fewer
        return torch.baddbmm(bias, q[0], k[0].mT, alpha=q.shape[-1] ** -0.5).softmax(-1).unsqueeze(0)
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.mT).to(bias.dtype)
    return scores.add_(bias).softmax(-1)


def _forward(qkv, pad, table, code, index, inverse, groups: Groups, dropout_p: float, seed: int) -> torch.Tensor:
    b, _, c3 = qkv.shape
    n, h, acc = len(code), table.shape[1], torch.promote_types(qkv.dtype, torch.float32)
    samples = []
    with torch.autocast(qkv.device.type, enabled=False):
        for sample in range(b):
            q, k, v = _windows(qkv[sample], pad, index, n, h)
            out = torch.empty(q.shape[0], n, h, q.shape[-1], dtype=qkv.dtype, device=qkv.device)
            # a fused call works in blocks of its own, and takes all windows of a kind at once
            fused = not dropout_p and not _is_narrow(q)
            budget = None if fused else _budget(qkv.device)
            for number, rows, at, region, _, _, new_bias in _blocks(n, h, groups, budget, _bias_budget(qkv.device)):
                if new_bias:
                    bias = window_bias(table.to(acc), code, rows)
                    bias = bias if region is None else bias + region_mask(region, rows)
                if fused:
                    mask = bias.to(q.dtype).unsqueeze(0)
                    part = F.scaled_dot_product_attention(q[at, :, rows], k[at], v[at], attn_mask=mask)
                else:
                    weights = _weights(q[at, :, rows], k[at], bias)
                    if dropout_p:
                        weights = weights * _dropped(weights.shape, dropout_p, seed, sample * 2**24 + number, weights)
                    part = _times(weights.to(v.dtype), v[at])
                out[at, rows] = part.transpose(1, 2)
            samples.append(out.view(-1, c3 // 3).index_select(0, inverse))
    return torch.stack(samples) if b > 1 else samples[0].unsqueeze(0)


class _WindowAttention(torch.autograd.Function):
    """The attention with weights that are made anew in the backward."""

    @staticmethod
    def forward(ctx: Any, qkv, pad, table, code, index, inverse, counts, dropout_p, seed, *regions) -> torch.Tensor:
        ctx.save_for_backward(qkv, pad, table, code, index, inverse, *regions)
        ctx.options = counts, dropout_p, seed
        return _forward(qkv, pad, table, code, index, inverse, list(zip(counts, regions)), dropout_p, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        qkv, pad, table, code, index, inverse, *regions = ctx.saved_tensors
        counts, dropout_p, seed = ctx.options
        groups = list(zip(counts, regions))
        n, h, acc = len(code), table.shape[1], torch.promote_types(qkv.dtype, torch.float32)
        d_qkv = torch.empty_like(qkv)
        d_pad = None if pad is None else torch.zeros_like(pad, dtype=acc)
        d_table = torch.zeros(table.t().shape, dtype=acc, device=table.device)
        with torch.autocast(qkv.device.type, enabled=False):
            for sample in range(len(qkv)):
                q, k, v = _windows(qkv[sample], pad, index, n, h)
                g = grad[sample]
                if pad is not None:
                    g = torch.cat([g, g.new_zeros(1, g.shape[1])])
                g = g.index_select(0, index).view(-1, n, h, q.shape[-1]).transpose(1, 2)
                # then the keys of a window get gradients from several blocks of queries
                many = n * n * h > _bias_budget(qkv.device)
                make = torch.zeros if many else torch.empty
                d_windows = make(len(q), n, 3, h, q.shape[-1], dtype=qkv.dtype, device=qkv.device)
                d_q, d_k, d_v = d_windows.permute(2, 0, 3, 1, 4)
                scale = q.shape[-1] ** -0.5
                for block in _blocks(n, h, groups, _budget(qkv.device), _bias_budget(qkv.device)):
                    number, rows, at, region, new_rows, last_of_rows, new_bias = block
                    if new_rows:
                        bias = window_bias(table.to(acc), code, rows)
                        d_bias = torch.zeros_like(bias)
                    if new_bias:
                        masked = bias if region is None else bias + region_mask(region, rows)
                    weights = _weights(q[at, :, rows], k[at], masked)
                    part = g[at, :, rows]
                    d_weights = (part @ v[at].mT).to(acc)
                    if dropout_p:
                        drop = _dropped(weights.shape, dropout_p, seed, sample * 2**24 + number, weights)
                        d_weights = d_weights * drop
                        dropped = (weights * drop).to(qkv.dtype)
                    else:
                        dropped = weights.to(qkv.dtype)
                    d_v_part = _times(dropped.mT, part)
                    d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
                    d_bias += d_scores.sum(0) if len(d_scores) > 1 else d_scores[0]
                    d_scores = d_scores.to(qkv.dtype)
                    d_q[at, :, rows] = _times(d_scores, k[at]).mul_(scale)
                    d_k_part = _times(d_scores.mT, q[at, :, rows]).mul_(scale)
                    if many:
                        d_k[at] += d_k_part
                        d_v[at] += d_v_part
                    else:
                        d_k[at], d_v[at] = d_k_part, d_v_part
                    if last_of_rows:
                        places = _table_rows(table, code, rows).flatten()
                        d_table.index_add_(1, places, d_bias.view(h, -1))
                d_rows = d_windows.view(-1, qkv.shape[2])
                d_qkv[sample] = d_rows.index_select(0, inverse)
                if d_pad is not None:
                    d_pad += (index == qkv.shape[1]).to(qkv.dtype) @ d_rows
        d_pad = None if d_pad is None else d_pad.to(pad.dtype)
        return d_qkv, d_pad, d_table.t().to(table.dtype), *[None] * (6 + len(regions))
