"""Linear attention between the projections of one set of tokens, with projections folded into its small matrices.

Legend: B batch, H heads, N tokens, D channels of a head, C = H D.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F


def fold_values(
    k: torch.Tensor, x: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, heads: int
) -> torch.Tensor:
    """From keys and tokens the matrix that takes queries to the output: ``k_h^T (x W_v^T + b_v) W_o^T`` of all heads.

    Neither the values nor the heads' outputs are made: ``k^T x`` is of the size C x C, and all that is left are
    products of such matrices. With the features q of the queries ``q @ fold_values(...)`` is
    ``concat_h(q_h k_h^T v_h) W_o^T``.

    Args:
        k: features of the keys (B, N, C), head by head.
        x: tokens (B, N, C).
        value: weight (C, C) of the projection to values.
        bias: its bias (C,).
        out: weight (C, C) of the output's projection.
        heads: H.

    Returns:
        (B, C, C)
    """
    product = (k.mT @ x).unflatten(1, (heads, -1)) @ value.unflatten(0, (heads, -1)).mT
    if bias is not None:
        product = product + k.sum(1).unflatten(1, (heads, -1, 1)) * bias.unflatten(0, (heads, 1, -1))
    return (product @ out.T.unflatten(0, (heads, -1))).flatten(1, 2)


def _head_sums(x: torch.Tensor, weight: torch.Tensor, heads: int) -> torch.Tensor:
    """``sum_d x[b, n, h, d] weight[b, h, d]`` of tokens (B, N, C) and weights (B, C): (B, N, H)."""
    each = weight.unflatten(1, (heads, -1))
    return x @ torch.diag_embed(each.mT, dim1=-2, dim2=-1).transpose(1, 2).flatten(1, 2)


def folded_attention(
    x: torch.Tensor,
    qkv: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    heads: int,
    feature: Callable[[torch.Tensor], torch.Tensor],
    least: float,
    gain: torch.Tensor | None = None,
) -> torch.Tensor:
    """``g_h f(q) (f(k)^T v / N) / max(f(q) mean_N f(k), least)`` of the projections of x, then the output's projection.

    Values and the heads' outputs are not made (see ``fold_values``).

    Args:
        x: tokens (B, N, C).
        qkv: weight (3C, C) of the projection to queries, keys and values.
        bias: its bias (3C,).
        out: weight (C, C) of the output's projection.
        heads: H.
        feature: f, for each element.
        least: smallest denominator.
        gain: g, a factor for each head.

    Returns:
        (B, N, C) in the dtype of x; products are in float32 at least, also under autocast
    """
    acc = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        tokens, out = x.to(acc), out.to(acc)
        wq, wk, wv = qkv.to(acc).chunk(3)
        bq, bk, bv = (None,) * 3 if bias is None else bias.to(acc).chunk(3)
        q, k = feature(F.linear(tokens, wq, bq)), feature(F.linear(tokens, wk, bk))
        matrix = fold_values(k, tokens, wv, bv, out, heads) / x.shape[1]
        if gain is not None:
            matrix = matrix * gain.to(acc).flatten().repeat_interleave(len(wq) // heads).unsqueeze(-1)
        share = 1 / _head_sums(q, k.mean(1), heads).clamp_min(least)
        q = (q.unflatten(-1, (heads, -1)) * share.unsqueeze(-1)).flatten(-2)
        return (q @ matrix).to(x.dtype)
