"""Dilated attention of LongNet (Ding et al., arXiv 2307.02486, 2023).

Legend: B batch, H heads, N tokens, D channels of a head, w segment, r dilation, M tokens of a segment that a head
reads, Q some of them as queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from monai_ext.ops.shapes import check_qkv
from monai_ext.ops.tiled_attention import block_size, chunks, empty_heads

OFFSETS = ("cyclic", "blocks")


def offset_of_head(head: int, heads: int, dilation: int, offsets: str) -> int:
    """The first token of a segment that a head reads."""
    return head % dilation if offsets == "cyclic" else head // math.ceil(heads / dilation)


def dilated_attention_plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    segments: Sequence[int],
    dilations: Sequence[int],
    causal: bool = False,
    offsets: str = "cyclic",
    weight_gradient: bool = False,
) -> torch.Tensor:
    """The definition with the (N, N) scores of each branch in memory, in the dtype of the inputs."""
    h, n = q.shape[1:3]
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    place = torch.arange(n, device=q.device)
    outs, sizes = [], []
    for w, r in zip(segments, dilations):
        first = torch.tensor([offset_of_head(j, h, r, offsets) for j in range(h)], device=q.device)
        chosen = (place % w >= first[:, None]) & ((place % w - first[:, None]) % r == 0)
        seen = chosen[:, :, None] & chosen[:, None, :] & (place[:, None] // w == place // w)
        if causal:
            seen = seen & (place <= place[:, None])
        of_branch = scores.masked_fill(~seen, -math.inf)
        sizes.append(of_branch.logsumexp(-1).masked_fill(~chosen, -math.inf))
        outs.append(of_branch.masked_fill(~chosen[:, :, None], 0.0).softmax(-1) @ v)
    weights = torch.stack(sizes, -1)
    nothing = (weights == -math.inf).all(-1, keepdim=True)
    weights = weights.masked_fill(nothing, 0.0).softmax(-1).masked_fill(nothing, 0.0)
    if not weight_gradient:
        weights = weights.detach()
    return sum(weights[..., i, None] * out for i, out in enumerate(outs))


def dilated_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    segments: Sequence[int],
    dilations: Sequence[int],
    causal: bool = False,
    offsets: str = "cyclic",
    weight_gradient: bool = False,
) -> torch.Tensor:
    """Softmax attention within segments of the sequence, sparser the longer they are.

    Branch i cuts the sequence into segments of w_i tokens, of which a head reads every r_i-th, beginning with an
    offset of its own, and lets these attend each other. A token's outputs in the branches are added up with weights
    ``softmax_i(log-sum-exp of its scores in branch i)``; a branch that does not read a token in a head has weight 0
    there, and where none does the output is 0 (so some dilation should be 1). The last segment may be shorter. With
    the gradient through the weights this is one softmax over the keys of all branches together.

    O(N D sum w_i / r_i^2) time; memory linear in N: q, k, v and their gradients, the output, and one log-sum-exp a
    token and head, beside one block of scores. Not twice differentiable.

    Departures from the authors' code: a sequence that a segment does not divide is not filled up with keys of zeros
    that take part in the softmax; and with ``offsets="cyclic"``, the paper's definition, head j begins at j mod r,
    where the code gives ceil(H / r) heads in a row the same offset (``"blocks"``), so that for H = 6 and r = 4 no
    head would begin at 3.

    Args:
        q: queries (B, H, N, D), in any strides.
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        segments: w of each branch, in tokens.
        dilations: r of each branch.
        causal: a token attends itself and those before it only.
        offsets: see above.
        weight_gradient: whether the gradient flows through the weights of the branches; in the authors' code it
            does not.

    Returns:
        (B, H, N, D) in the dtype of q; scores and sums are in float32 at least, also under autocast

    Raises:
        ValueError: for q, k, v of different shapes, segments and dilations that do not belong together, or unknown
            offsets.
    """
    check_qkv(q, k, v)
    check_branches(segments, dilations, offsets)
    branches = tuple(zip(segments, dilations))
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
        return _Dilated.apply(q, k, v, branches, causal, offsets, weight_gradient)
    return _forward(q, k, v, branches, causal, offsets)[0].to(q.dtype)


def check_branches(segments: Sequence[int], dilations: Sequence[int], offsets: str) -> None:
    """Refuse branches that are none.

    Raises:
        ValueError: for segments and dilations of different number or below 1, or unknown offsets.
    """
    if not segments or len(segments) != len(dilations) or min(*segments, *dilations) < 1:
        raise ValueError(
            "segments and dilations must be as many numbers of at least 1 as there are branches, got "
            f"{list(segments)} and {list(dilations)}."
        )
    if offsets not in OFFSETS:
        raise ValueError(f"offsets must be one of {', '.join(map(repr, OFFSETS))}, got {offsets!r}.")


class _Part:
    """What the heads of one offset read in segments of one length: views of a tensor (B, H, N, ..)."""

    def __init__(self, heads: slice, start: int, count: int, length: int, places: slice) -> None:
        self.heads, self.start, self.count, self.length, self.places = heads, start, count, length, places

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """(B, segments, heads, M, ..)"""
        x = x[:, self.heads].narrow(2, self.start, self.count * self.length)
        return x.unflatten(2, (self.count, self.length))[:, :, :, self.places].transpose(1, 2)


def _parts(h: int, n: int, branches: Sequence[tuple[int, int]], offsets: str) -> Iterator[_Part]:
    for w, r in branches:
        w = min(w, n)
        group = math.ceil(h / r)  # heads of an offset
        for offset in range(min(r, h)):
            heads = slice(offset, h, r) if offsets == "cyclic" else slice(offset * group, min(h, (offset + 1) * group))
            if heads.start >= h:
                continue
            if offset < w:
                yield _Part(heads, 0, n // w, w, slice(offset, w, r))
            if offset < n % w:
                yield _Part(heads, n - n % w, 1, n % w, slice(offset, n % w, r))


def _blocks(x: torch.Tensor, causal: bool) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Blocks of queries and of the keys that they see in (B, segments, heads, M, ..)."""
    m = x.shape[3]
    for block in chunks(x.shape[:4], block_size(x) // m):
        yield block, (*block[:3], slice(0, block[3].stop if causal else m))


def _rows(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype).flatten(0, 2)


def _scores(q: torch.Tensor, k: torch.Tensor, first: int, causal: bool) -> torch.Tensor:
    """Scores (G, Q, M) of queries from the ``first`` on."""
    scale = q.shape[-1] ** -0.5
    if not causal:
        return (q * scale) @ k.transpose(-2, -1)
    bias = torch.full((q.shape[1], k.shape[1]), -math.inf, dtype=q.dtype, device=q.device).triu(first + 1)
    return torch.baddbmm(bias.expand(q.shape[0], -1, -1), q, k.transpose(-2, -1), alpha=scale)


def _forward(q, k, v, branches, causal, offsets) -> tuple[torch.Tensor, torch.Tensor]:
    """The output in the dtype of accumulation, and the log-sum-exp (B, H, N) of all scores of a token."""
    b, h, n, _ = q.shape
    acc = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        out = empty_heads(q, acc, zeros=True)
        size = torch.full((b, h, n), -math.inf, dtype=acc, device=q.device)
        for part in _parts(h, n, branches, offsets):
            qs, ks, vs, outs, sizes = (part.of(t) for t in (q, k, v, out, size))
            for at, seen in _blocks(qs, causal):
                scores = _scores(_rows(qs[at], acc), _rows(ks[seen], acc), at[3].start, causal)
                top = scores.amax(-1, keepdim=True)
                scores = scores.sub_(top).exp_()
                total = scores.sum(-1, keepdim=True)
                new = (scores @ _rows(vs[seen], acc)).div_(total)
                # merged with what earlier branches gave
                old_size, new_size = sizes[at], (top + total.log()).view(sizes[at].shape)
                both = torch.logaddexp(old_size, new_size)
                share = (new_size - both).exp_().unsqueeze(-1)
                outs[at].mul_((old_size - both).exp_().unsqueeze(-1)).add_(new.view(outs[at].shape) * share)
                sizes[at].copy_(both)
    return out, size


class _Dilated(torch.autograd.Function):
    """Keeps q, k, v and the log-sum-exps, and computes the weights of a block anew in the backward."""

    @staticmethod
    def forward(ctx: Any, q, k, v, branches, causal, offsets, weight_gradient) -> torch.Tensor:
        out, size = _forward(q, k, v, branches, causal, offsets)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, size, out if weight_gradient else None)
        ctx.options = (branches, causal, offsets)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, size, out = ctx.saved_tensors
        branches, causal, offsets = ctx.options
        acc, scale = size.dtype, q.shape[-1] ** -0.5
        tiny = torch.finfo(acc).tiny
        with torch.autocast(q.device.type, enabled=False):
            dq, dk, dv = (empty_heads(q, acc, zeros=True) for _ in range(3))
            means = None if out is None else (grad.to(acc) * out.to(acc)).sum(-1)
            for part in _parts(q.shape[1], q.shape[2], branches, offsets):
                qs, ks, vs, gs, sizes, dqs, dks, dvs = (part.of(t) for t in (q, k, v, grad, size, dq, dk, dv))
                for at, seen in _blocks(qs, causal):
                    qb, gb = _rows(qs[at], acc), _rows(gs[at], acc)
                    kb, vb = _rows(ks[seen], acc), _rows(vs[seen], acc)
                    # weights in the output: those of the branch times its share
                    weights = _scores(qb, kb, at[3].start, causal).sub_(_rows(sizes[at], acc).unsqueeze(-1)).exp_()
                    dvs[seen].add_((weights.transpose(-2, -1) @ gb).view(dvs[seen].shape))
                    ds = gb @ vb.transpose(-2, -1)
                    if means is None:
                        mean = (weights * ds).sum(-1, keepdim=True)
                        # of this branch alone; where its share vanishes so do its weights
                        mean = mean.div_(weights.sum(-1, keepdim=True).clamp_min_(tiny))
                    else:
                        mean = _rows(part.of(means)[at], acc).unsqueeze(-1)
                    ds = weights.mul_(ds.sub_(mean)).mul_(scale)
                    dqs[at].add_((ds @ kb).view(dqs[at].shape))
                    dks[seen].add_((ds.transpose(-2, -1) @ qb).view(dks[seen].shape))
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None, None
