"""Sequence-normalised attention without softmax (Khader et al., arXiv 2406.01314, 2024).

Legend: B batch, H heads, N tokens, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from monai_ext.ops.shapes import check_qkv

SCALES = ("n", "sqrt_n")
# Elements of a block of tokens that is centred at a time: what bounds the working memory. A CPU is fastest where
# they fit its cache.
BLOCK_CPU, BLOCK = 2**18, 2**22


def seqnorm_attention_plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    scale: str = "n",
) -> torch.Tensor:
    """The definition, with normalised copies of q, k and v: ``q^ (k^^T v^) / N``, in the dtype of the inputs."""
    qkv = torch.stack((q, k, v))
    var, mean = torch.var_mean(qkv, dim=-2, keepdim=True, correction=0)
    qkv = (qkv - mean) * torch.rsqrt(var + eps) * weight[:, None, :, None] + bias[:, None, :, None]
    q, k, v = qkv.unbind(0)
    return _factor(scale, q.shape[-2]) * (q @ (k.transpose(-2, -1) @ v))


def seqnorm_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    scale: str = "n",
) -> torch.Tensor:
    """Sequence-normalised attention with the normalisation folded into the D x D product.

    Each channel of q, k and v is standardised over the tokens of its sample and given an affine map of its own,
    ``x^ = weight * (x - mean) / sqrt(var + eps) + bias``; the output is ``s q^ (k^^T v^)``. Since centred tokens sum
    to zero, ``k^^T v^ = w_k r_k (k - m_k)^T (v - m_v) r_v w_v + N b_k b_v^T``: statistics and affine act on a D x D
    matrix, forward and backward, and autograd keeps q, k and v as they come (views included) and nothing else of
    their size. Tokens are centred block by block before they are multiplied, since ``k^T v - N m_k m_v^T`` would
    lose all digits on constant tokens (air around a patient). Time O(N D^2), extra memory O(D^2).

    Departures from the paper, which does not state them: eps, the biased variance, and statistics over all tokens,
    a class token among them. Note that ``b_k`` and ``b_v`` act only through their product, so a pair that starts at
    zero gets no gradient. Not twice differentiable.

    Args:
        q: queries (B, H, N, D), in any strides.
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        weight: affine weights (3, H, D) of q, k and v.
        bias: affine biases (3, H, D) of q, k and v.
        eps: added to the variance.
        scale: s is 1/N for ``"n"`` (the paper; independent tokens then give an output of standard deviation
            sqrt(D/N)) and 1/sqrt(N) for ``"sqrt_n"`` (sqrt(D) for every N).

    Returns:
        (B, H, N, D) in the dtype of q; sums and products are in float32 at least, also under autocast

    Raises:
        ValueError: for q, k, v of different or other than four-dimensional shapes, no tokens, an affine of another
            shape, or an unknown scale.
    """
    check_qkv(q, k, v)
    expected = (3, q.shape[1], q.shape[3])
    if tuple(weight.shape) != expected or tuple(bias.shape) != expected:
        raise ValueError(
            f"weight and bias must be (3, H, D) = {expected}, got {tuple(weight.shape)} and {tuple(bias.shape)}."
        )
    s = _factor(scale, q.shape[2])
    if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, weight, bias)):
        return _SeqNorm.apply(q, k, v, weight, bias, eps, s)
    # outside of training no autograd function stands in the way of tracing and export
    return _forward(q, k, v, weight, bias, eps, s)[0]


def seqnorm_self_attention(
    x: torch.Tensor,
    qkv: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    out: torch.Tensor,
    eps: float = 1e-5,
    scale: str = "n",
) -> torch.Tensor:
    """``seqnorm_attention`` of the projections of one set of tokens, then the output's projection, without q, k and v.

    All that the operator needs of q, k and v are products of theirs over the tokens, and these follow from the tokens'
    own: with centred tokens ``G = (x - m)^T (x - m)`` the variances are the diagonal of ``W G W^T / N`` and
    ``(k - m_k)^T (v - m_v) = W_k G W_v^T``. So the whole is ``(x - m) A + a`` with a C x C matrix A: two products over
    the tokens instead of four. That pays from N of a few C. Small variances of a projection are differences of large
    numbers in G: where one is less than 1e-6 of the tokens' own, float32 does not resolve it.

    Args:
        x: tokens (B, N, C).
        qkv: weight (3C, C) of the projection to queries, keys and values.
        weight: affine weights (3, H, D) of q, k and v, with H D = C.
        bias: affine biases (3, H, D) of q, k and v.
        out: weight (C, C) of the output's projection.
        eps: added to the variance.
        scale: as in ``seqnorm_attention``.

    Returns:
        (B, N, C) in the dtype of x; products are in float32 at least, also under autocast

    Raises:
        ValueError: for an unknown scale.
    """
    n, acc = x.shape[1], torch.promote_types(x.dtype, torch.float32)
    s, heads = _factor(scale, n), weight.shape[1]
    with torch.autocast(x.device.type, enabled=False):
        centred = x.to(acc)
        centred = centred - centred.mean(1, keepdim=True)
        gram = _Gram.apply(centred) if torch.is_grad_enabled() else centred.mT @ centred
        # (H, D, C), each
        wq, wk, wv = qkv.to(acc).unflatten(0, (3, heads, -1))
        bq, bk, bv = bias.to(acc).unbind(0)
        gram = gram.unsqueeze(1)
        of_q, of_k, of_v = (w @ gram for w in (wq, wk, wv))
        scaled = []
        for w, of, affine in zip((wq, wk, wv), (of_q, of_k, of_v), weight.to(acc)):
            scaled.append(affine * torch.rsqrt((of * w).sum(-1).clamp_min(0) / n + eps))
        product = scaled[1].unsqueeze(-1) * (of_k @ wv.mT) * scaled[2].unsqueeze(-2)
        product = product + n * bk.unsqueeze(-1) * bv.unsqueeze(-2)
        # from a head's values to the output
        product = s * product @ out.to(acc).T.unflatten(0, (heads, -1))
        matrix = (wq.mT @ (scaled[0].unsqueeze(-1) * product)).sum(1)
        offset = (bq.unsqueeze(-2) @ product).sum(1)
        return torch.baddbmm(offset, centred, matrix).to(x.dtype)


class _Gram(torch.autograd.Function):
    """``x^T x`` with one product in the backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.mT @ x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return x @ (grad + grad.mT)


def _factor(scale: str, n: int) -> float:
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))}, got {scale!r}.")
    return 1 / n if scale == "n" else n**-0.5


def _blocks(x: torch.Tensor) -> list[slice]:
    """Slices of the token axis whose blocks hold about ``BLOCK`` elements; all of it where an export leaves it open."""
    b, h, n, d = x.shape
    if torch.compiler.is_exporting():
        return [slice(None)]
    step = max(1, (BLOCK_CPU if x.device.type == "cpu" else BLOCK) // max(1, b * h * d))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _empty(x: torch.Tensor) -> torch.Tensor:
    """(B, H, N, D) whose memory is ordered (B, N, H, D), so that merging the heads needs no copy."""
    b, h, n, d = x.shape
    return x.new_empty((b, n, h, d)).transpose(1, 2)


def _forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, s: float
) -> tuple[torch.Tensor, ...]:
    """Output, means (3, B, H, D), reciprocal deviations (3, B, H, D), normalised k-v product (B, H, D, D)."""
    acc = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        n = q.shape[2]
        weight, bias = weight.to(acc), bias.to(acc)
        mean = torch.stack([t.mean(-2, dtype=acc) for t in (q, k, v)])
        mq, mk, mv = mean.unsqueeze(-2).unbind(0)
        squares = torch.zeros_like(mean)
        cross = torch.zeros(*q.shape[:2], q.shape[3], q.shape[3], dtype=acc, device=q.device)
        for at in _blocks(q):
            kc, vc = k[:, :, at] - mk, v[:, :, at] - mv
            cross = cross + kc.transpose(-2, -1) @ vc
            squares = squares + torch.stack([t.square().sum(-2) for t in (q[:, :, at] - mq, kc, vc)])
        r = torch.rsqrt(squares / n + eps)
        cross = r[1].unsqueeze(-1) * cross * r[2].unsqueeze(-2)
        product = weight[1].unsqueeze(-1) * cross * weight[2].unsqueeze(-2)
        product = product + n * bias[1].unsqueeze(-1) * bias[2].unsqueeze(-2)
        folded = s * (r[0] * weight[0]).unsqueeze(-1) * product
        offset = s * bias[0].unsqueeze(-2) @ product
        out = _empty(q)
        for at in _blocks(q):
            out[:, :, at] = (q[:, :, at] - mq) @ folded + offset
    return out, mean, r, cross


class _SeqNorm(torch.autograd.Function):
    """The folded form with a backward that centres block by block, as the forward does."""

    @staticmethod
    def forward(ctx: Any, q, k, v, weight, bias, eps: float, s: float) -> torch.Tensor:
        out, mean, r, cross = _forward(q, k, v, weight, bias, eps, s)
        ctx.save_for_backward(q, k, v, weight, bias, mean, r, cross)
        ctx.s = s
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Notation: z the standardised tokens, so x^ = w z + b; sums over tokens of z vanish.
        q, k, v, weight, bias, mean, r, cross = ctx.saved_tensors
        s, n, acc = ctx.s, q.shape[2], mean.dtype
        with torch.autocast(q.device.type, enabled=False):
            wq, wk, wv = weight.to(acc).unbind(0)
            bq, bk, bv = bias.to(acc).unbind(0)
            mq, mk, mv = mean.unsqueeze(-2).unbind(0)
            rq, rk, rv = r.unbind(0)
            product = wk.unsqueeze(-1) * cross * wv.unsqueeze(-2) + n * bk.unsqueeze(-1) * bv.unsqueeze(-2)

            zq_grad = torch.zeros_like(cross)  # z_q^T grad
            grad_sum = torch.zeros_like(mean[0])
            for at in _blocks(q):
                g = grad[:, :, at].to(acc)
                zq_grad = zq_grad + (q[:, :, at] - mq).transpose(-2, -1) @ g
                grad_sum = grad_sum + g.sum(-2)
            zq_grad = zq_grad * rq.unsqueeze(-1)
            d_product = s * (wq.unsqueeze(-1) * zq_grad + bq.unsqueeze(-1) * grad_sum.unsqueeze(-2))

            d_wq = s * (product * zq_grad).sum(-1)
            d_wk = (d_product * cross * wv.unsqueeze(-2)).sum(-1)
            d_wv = (d_product * cross * wk.unsqueeze(-1)).sum(-2)
            d_bq = s * (product @ grad_sum.unsqueeze(-1)).squeeze(-1)
            d_bk = n * (d_product @ bv.unsqueeze(-1)).squeeze(-1)
            d_bv = n * (bk.unsqueeze(-2) @ d_product).squeeze(-2)

            # standardising backward: r (dz - mean dz - z mean(z dz)); mean dz drops out for k and v,
            # whose partner is centred too
            from_grad = s * (product * (rq * wq).unsqueeze(-1)).transpose(-2, -1)
            from_v = ((rk * wk).unsqueeze(-1) * d_product * (wv * rv).unsqueeze(-2)).transpose(-2, -1)
            to_q, to_k, to_v = (
                (-x.square() * w * dw / n).unsqueeze(-2)
                for x, w, dw in ((rq, wq, d_wq), (rk, wk, d_wk), (rv, wv, d_wv))
            )
            q_shift = (rq * wq * d_bq / n).unsqueeze(-2)
            dq, dk, dv = _empty(q), _empty(k), _empty(v)
            for at in _blocks(q):
                dq[:, :, at] = grad[:, :, at].to(acc) @ from_grad + (q[:, :, at] - mq) * to_q - q_shift
                kc, vc = k[:, :, at] - mk, v[:, :, at] - mv
                dk[:, :, at] = vc @ from_v + kc * to_k
                dv[:, :, at] = kc @ from_v.transpose(-2, -1) + vc * to_v
            d_weight = torch.stack([t.sum(0) for t in (d_wq, d_wk, d_wv)]).to(weight.dtype)
            d_bias = torch.stack([t.sum(0) for t in (d_bq, d_bk, d_bv)]).to(bias.dtype)
        return dq, dk, dv, d_weight, d_bias, None, None
