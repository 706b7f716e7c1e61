"""Linear attention between the projections of one set of tokens, with projections folded into its small matrices.

Legend: B batch, H heads, N tokens, D channels of a head, C = H D.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# Numbers of a block of tokens that is worked on at a time: what bounds the working memory. A CPU is fastest where they
# fit its cache.
BLOCK_CPU, BLOCK = 2**18, 2**22


def of_queries_keys_values(
    qkv: torch.Tensor, bias: torch.Tensor | None
) -> tuple[tuple[torch.Tensor, torch.Tensor | None], ...]:
    """Weight (C, C) and bias (C,) of each of the three projections, from a joint one (3C, C) and its bias (3C,)."""
    return tuple(zip(qkv.chunk(3), (None,) * 3 if bias is None else bias.chunk(3)))


def fold_values(
    product: torch.Tensor,
    total: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    heads: int,
) -> torch.Tensor:
    """From keys and tokens the matrix that takes queries to the output: ``k_h^T (x W_v^T + b_v) W_o^T`` of all heads.

    Neither the values nor the heads' outputs are made: ``k^T x`` is of the size C x C, and all that is left are
    products of such matrices. With the features q of the queries ``q @ fold_values(...)`` is
    ``concat_h(q_h k_h^T v_h) W_o^T``.

    Args:
        product: ``k^T x`` (B, C, C) of the features k of the keys, head by head, and the tokens x.
        total: ``sum k`` (B, C) over the tokens.
        value: weight (C, C) of the projection to values.
        bias: its bias (C,).
        out: weight (C, C) of the output's projection.
        heads: H.

    Returns:
        (B, C, C)
    """
    product = product.unflatten(1, (heads, -1)) @ value.unflatten(0, (heads, -1)).mT
    if bias is not None:
        product = product + total.unflatten(1, (heads, -1, 1)) * bias.unflatten(0, (heads, 1, -1))
    return (product @ out.T.unflatten(0, (heads, -1))).flatten(1, 2)


def _by_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, C) as a matrix (B, C, H) that sums over the channels of each head."""
    each = x.unflatten(1, (heads, -1))
    return torch.diag_embed(each.mT, dim1=-2, dim2=-1).transpose(1, 2).flatten(1, 2)


def _of_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """The inverse: of (B, C, H) each head's own channels (B, C)."""
    return torch.diagonal(x.unflatten(1, (heads, -1)), dim1=1, dim2=3).transpose(1, 2).flatten(1)


def token_blocks(x: torch.Tensor) -> list[slice]:
    """Slices of the tokens (B, N, C) that hold about ``BLOCK`` numbers."""
    step = max(1, (BLOCK_CPU if x.device.type == "cpu" else BLOCK) // max(1, x.shape[0] * x.shape[2]))
    return [slice(start, min(start + step, x.shape[1])) for start in range(0, x.shape[1], step)]


# Features of queries and keys by name: in place, and the derivative from the feature itself, written to another tensor.
FEATURES: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[torch.Tensor, torch.Tensor], Any]]] = {
    "elu + 1": (lambda x: F.elu_(x).add_(1), lambda f, out: torch.clamp(f, max=1, out=out)),
    "relu": (F.relu_, lambda f, out: torch.sign(f, out=out)),
}


def folded_attention(
    x: torch.Tensor,
    qkv: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    heads: int,
    feature: str,
    least: float,
    gain: torch.Tensor | None = None,
) -> torch.Tensor:
    """``g_h f(q) (f(k)^T v / N) / max(f(q) mean_N f(k), least)`` of the projections of x, then the output's projection.

    Values and the heads' outputs are not made (see ``fold_values``), and of the size of x only the features of
    queries and keys are kept for the backward. Not twice differentiable.

    Args:
        x: tokens (B, N, C).
        qkv: weight (3C, C) of the projection to queries, keys and values.
        bias: its bias (3C,).
        out: weight (C, C) of the output's projection.
        heads: H.
        feature: f, one of ``FEATURES``.
        least: smallest denominator.
        gain: g, a factor for each head.

    Returns:
        (B, N, C) in the dtype of x; products are in float32 at least, also under autocast
    """
    acc = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        given = [
            None if t is None else t.to(acc) for t in (x, qkv, bias, out, None if gain is None else gain.flatten())
        ]
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given):
            return _Folded.apply(*given, heads, feature, least).to(x.dtype)
        return _forward(*given, heads, feature, least)[0].to(x.dtype)


def _forward(
    x: torch.Tensor,
    qkv: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    gain: torch.Tensor | None,
    heads: int,
    feature: str,
    least: float,
    keep: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Output, mean products and sums of k, and where they are to be kept features of q and k, reciprocal denominators.

    Keys come before queries, for these wait for the sums of those.
    """
    of_q, of_k, (wv, bv) = of_queries_keys_values(qkv, bias)
    apply, n, blocks = FEATURES[feature][0], x.shape[1], token_blocks(x)
    product, total = x.new_zeros(x.shape[0], x.shape[2], x.shape[2]), x.new_zeros(x.shape[0], x.shape[2])
    kept = [torch.empty_like(x), torch.empty_like(x), x.new_empty(*x.shape[:2], heads)] if keep else []
    for at in blocks:
        k = apply(F.linear(x[:, at], *of_k))
        product.baddbmm_(k.mT, x[:, at], alpha=1 / n)
        total += k.sum(1)
        if kept:
            kept[1][:, at] = k
    total /= n
    matrix, by_head = fold_values(product, total, wv, bv, out, heads), _by_head(total, heads)
    if gain is not None:
        matrix = matrix * _repeated(gain, x)
    y = torch.empty_like(x)
    for at in blocks:
        q = apply(F.linear(x[:, at], *of_q))
        share = (q @ by_head).clamp_min_(least).reciprocal_()
        if kept:
            kept[0][:, at], kept[2][:, at] = q, share
        y[:, at] = _scale(q, share) @ matrix
    return y, product, total, *kept


def _repeated(gain: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Factors (H,) for the rows of a matrix (B, C, C)."""
    return gain.repeat_interleave(like.shape[-1] // len(gain)).unsqueeze(-1)


def _scale(x: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Tokens (B, N, C) times a factor for each head (B, N, H), in place."""
    x.unflatten(-1, (share.shape[-1], -1)).mul_(share.unsqueeze(-1))
    return x


class _Folded(torch.autograd.Function):
    """The folded attention, block by block forward and backward."""

    @staticmethod
    def forward(ctx: Any, x, qkv, bias, out, gain, heads: int, feature: str, least: float) -> torch.Tensor:
        y, product, total, q, k, share = _forward(x, qkv, bias, out, gain, heads, feature, least, keep=True)
        ctx.save_for_backward(x, qkv, bias, out, gain, product, total, q, k, share)
        ctx.heads, ctx.slope, ctx.least = heads, FEATURES[feature][1], least
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, qkv, bias, out, gain, product, total, q, k, share = ctx.saved_tensors
        heads, n, blocks = ctx.heads, x.shape[1], token_blocks(x)
        with torch.autocast(x.device.type, enabled=False):
            (wq, _), (wk, _), (wv, bv) = of_queries_keys_values(qkv, bias)
            # (B, H, D, C) or (H, D, C), each: a head's values, and what they become in the output
            product_h, total_h = product.unflatten(1, (heads, -1)), total.unflatten(1, (heads, -1, 1))
            wv_h, out_h = wv.unflatten(0, (heads, -1)), out.T.unflatten(0, (heads, -1))
            values = product_h @ wv_h.mT
            if bv is not None:
                values = values + total_h * bv.unflatten(0, (heads, 1, -1))
            plain = (values @ out_h).flatten(1, 2)
            matrix = plain if gain is None else plain * _repeated(gain, x)

            dx, d_matrix = torch.empty_like(x), torch.zeros_like(product)
            d_wq, d_wk, d_bq, d_bk = (w.new_zeros(w.shape[:rank]) for rank in (2, 1) for w in (wq, wk))
            d_total, by_head = torch.zeros_like(total), _by_head(total, heads)
            # made as the shares were: in float32, least times it need not be 1
            most = share.new_full((), ctx.least).reciprocal_()
            for at in blocks:
                q_, share_, g = q[:, at], share[:, at], grad[:, at]
                d_matrix.baddbmm_(_scale(q_.clone(), share_).mT, g)
                dq = g @ matrix.mT
                d_share = (dq * q_).unflatten(-1, (heads, -1)).sum(-1)
                # where the bound acts, the denominator is a constant
                d_least = d_share * -share_.square() * (share_ < most)
                d_total += _of_heads(q_.mT @ d_least, heads)
                dq = _scale(dq, share_).baddbmm_(d_least, by_head.mT)
                dq.mul_(ctx.slope(q_, torch.empty_like(q_)))
                dx[:, at] = dq @ wq
                d_wq += (dq.mT @ x[:, at]).sum(0)
                d_bq += dq.sum((0, 1))

            d_gain = None
            if gain is not None:
                d_gain = (d_matrix * plain).sum((0, 2)).unflatten(0, (heads, -1)).sum(1)
                d_matrix = d_matrix * _repeated(gain, x)
            d_matrix = d_matrix.unflatten(1, (heads, -1))
            d_values = d_matrix @ out_h.mT
            d_out = (values.mT @ d_matrix).sum(0).flatten(0, 1).T
            d_product, d_wv = (d_values @ wv_h).flatten(1, 2) / n, (d_values.mT @ product_h).sum(0).flatten(0, 1)
            d_bv = None
            if bv is not None:
                d_total = d_total + (d_values * bv.unflatten(0, (heads, 1, -1))).sum(-1).flatten(1)
                d_bv = (d_values * total_h).sum((0, 2)).flatten()

            for at in blocks:
                k_, x_ = k[:, at], x[:, at]
                dk = torch.baddbmm(d_total.unsqueeze(1) / n, x_, d_product.mT)
                dk.mul_(ctx.slope(k_, torch.empty_like(k_)))
                dx[:, at] += torch.baddbmm(dk @ wk, k_, d_product)
                d_wk += (dk.mT @ x_).sum(0)
                d_bk += dk.sum((0, 1))
            d_qkv = torch.cat((d_wq, d_wk, d_wv))
            d_bias = None if bias is None else torch.cat((d_bq, d_bk, d_bv))
        return dx, d_qkv, d_bias, d_out, d_gain, None, None, None
