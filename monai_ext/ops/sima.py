"""SimA, softmax-free attention by L1 normalisation (Koohpayegani and Pirsiavash, arXiv 2206.08898, 2022).

Legend: B batch, H heads, N tokens, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from monai_ext.ops.folded import fold_values, of_queries_keys_values, token_blocks
from monai_ext.ops.shapes import check_qkv


def sima_attention_plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, eps: float = 1e-12) -> torch.Tensor:
    """The definition with the (N, N) scores in memory, in the dtype of the inputs."""
    q = q / q.abs().sum(-2, keepdim=True).clamp_min(eps)
    k = k / k.abs().sum(-2, keepdim=True).clamp_min(eps)
    return (q @ k.transpose(-2, -1)) @ v


def sima_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, eps: float = 1e-12) -> torch.Tensor:
    """SimA: ``q~ k~^T v``, where each channel of q and k is divided by its L1 norm over the tokens.

    The norms are folded into the smaller product, so that no normalised copy of k exists: with at least D tokens
    ``q (k^T v / (|q|_1 |k|_1))``, O(N D^2) time and O(D^2) extra memory, with fewer ``(q / (|q|_1 |k|_1)) k^T v``,
    O(N^2 D). Departure from the reference, which keeps the dtype of its inputs: products and norms are in float32
    at least, also under autocast, since the output falls as 1/N^(3/2) (standard deviation 2e-2 at 64 independent
    unit-normal tokens, 6e-6 at 16 384); bfloat16 holds such numbers, float16 does not.

    Args:
        q: queries (B, H, N, D).
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        eps: smallest norm to divide by.

    Returns:
        (B, H, N, D) in the dtype of q

    Raises:
        ValueError: for q, k, v of different or other than four-dimensional shapes, or no tokens.
    """
    check_qkv(q, k, v)
    dtype, acc = q.dtype, torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        # contiguous once, or each product would keep a copy of its own for the backward
        q, k, v = (t.to(acc).contiguous() for t in (q, k, v))
        q_norm = torch.linalg.vector_norm(q, ord=1, dim=-2).clamp_min(eps)
        k_norm = torch.linalg.vector_norm(k, ord=1, dim=-2).clamp_min(eps)
        # one reciprocal after the other: the product of two tiny norms would underflow
        # an export leaves the number of tokens open
        if not torch.compiler.is_exporting() and q.shape[-2] < q.shape[-1]:
            out = (q / q_norm.unsqueeze(-2) / k_norm.unsqueeze(-2)) @ k.transpose(-2, -1) @ v
        else:
            out = q @ ((k.transpose(-2, -1) @ v) / k_norm.unsqueeze(-1) / q_norm.unsqueeze(-1))
    return out.to(dtype)


def sima_self_attention(
    x: torch.Tensor, qkv: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, heads: int, eps: float = 1e-12
) -> torch.Tensor:
    """``sima_attention`` of the projections of one set of tokens, then the output's projection, without q, k and v.

    Products of queries, keys and values over the tokens follow from the tokens' own, ``x^T x`` and ``sum x``, and of
    queries and keys themselves only the L1 norms are needed. So the whole is ``x A + a`` with a C x C matrix A;
    queries and keys are made block by block for their norms and dropped, but for the signs (one byte each), which
    the backward needs. Not twice differentiable.

    Args:
        x: tokens (B, N, C).
        qkv: weight (3C, C) of the projection to queries, keys and values.
        bias: its bias (3C,).
        out: weight (C, C) of the output's projection.
        heads: H.
        eps: smallest norm to divide by.

    Returns:
        (B, N, C) in the dtype of x; products are in float32 at least, also under autocast
    """
    acc = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        tokens, out, qkv = x.to(acc), out.to(acc), qkv.to(acc)
        bias = None if bias is None else bias.to(acc)
        (wq, bq), (wk, bk), (wv, bv) = of_queries_keys_values(qkv, bias)
        of_qk = qkv[: 2 * len(wq)], None if bias is None else bias[: 2 * len(wq)]
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (tokens, *of_qk)):
            gram, total, norms = _Sums.apply(tokens, *of_qk)
        else:
            gram, total, norms = _sums(tokens, *of_qk)
        q_norm, k_norm = norms.clamp_min(eps).unsqueeze(-1).chunk(2, 1)
        keys_tokens, keys = wk @ gram, total @ wk.T
        if bk is not None:
            keys_tokens, keys = keys_tokens + bk.unsqueeze(-1) * total.unsqueeze(1), keys + x.shape[1] * bk
        # one division after the other: the product of two tiny norms would underflow
        of_queries = fold_values(keys_tokens, keys, wv, bv, out, heads) / k_norm / q_norm
        matrix = wq.T @ of_queries
        if bq is None:
            return (tokens @ matrix).to(x.dtype)
        return torch.baddbmm((bq @ of_queries).unsqueeze(1), tokens, matrix).to(x.dtype)


def _sums(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, signs: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """``x^T x`` (B, C, C), ``sum x`` (B, C) and the L1 norms (B, 2C) of ``x W^T + b``, whose signs go to ``signs``."""
    gram, norms = x.new_zeros(x.shape[0], x.shape[2], x.shape[2]), x.new_zeros(x.shape[0], len(weight))
    for at in token_blocks(x):
        projected = F.linear(x[:, at], weight, bias)
        if signs is not None:
            signs[:, at] = projected.sign()
        norms += projected.abs_().sum(1)
        gram.baddbmm_(x[:, at].mT, x[:, at])
    return gram, x.sum(1), norms


class _Sums(torch.autograd.Function):
    """``_sums`` with a backward block by block."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        signs = torch.empty(*x.shape[:2], len(weight), dtype=torch.int8, device=x.device)
        ctx.save_for_backward(x, weight, signs)
        ctx.biased = bias is not None
        return _sums(x, weight, bias, signs)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_gram: torch.Tensor, d_total: torch.Tensor, d_norms: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        x, weight, signs = ctx.saved_tensors
        both, slope = d_gram + d_gram.mT, d_norms.unsqueeze(1)
        dx = torch.empty_like(x)
        d_weight, d_bias = torch.zeros_like(weight), weight.new_zeros(len(weight)) if ctx.biased else None
        for at in token_blocks(x):
            block, d = x[:, at], signs[:, at] * slope
            dx[:, at] = torch.baddbmm(d_total.unsqueeze(1), block, both).add_(d @ weight)
            d_weight += (d.mT @ block).sum(0)
            if d_bias is not None:
                d_bias += d.sum((0, 1))
        return dx, d_weight, d_bias
