"""SimA, softmax-free attention by L1 normalisation (Koohpayegani and Pirsiavash, arXiv 2206.08898, 2022).

Legend: B batch, H heads, N tokens, D channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from monai_ext.ops.folded import fold_values, of_queries_keys_values
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
        if q.shape[-2] < q.shape[-1]:
            out = (q / q_norm.unsqueeze(-2) / k_norm.unsqueeze(-2)) @ k.transpose(-2, -1) @ v
        else:
            out = q @ ((k.transpose(-2, -1) @ v) / k_norm.unsqueeze(-1) / q_norm.unsqueeze(-1))
    return out.to(dtype)


def sima_self_attention(
    x: torch.Tensor, qkv: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, heads: int, eps: float = 1e-12
) -> torch.Tensor:
    """``sima_attention`` of the projections of one set of tokens, then the output's projection, folded.

    Norms, values and the output's projection act on a C x C matrix (see ``monai_ext.ops.folded.fold_values``).

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
        tokens, out = x.to(acc), out.to(acc)
        of_q, of_k, (wv, bv) = of_queries_keys_values(qkv.to(acc), None if bias is None else bias.to(acc))
        q, k = F.linear(tokens, *of_q), F.linear(tokens, *of_k)
        q_norm, k_norm = (torch.linalg.vector_norm(t, ord=1, dim=1).clamp_min(eps).unsqueeze(-1) for t in (q, k))
        # one division after the other: the product of two tiny norms would underflow
        return (q @ (fold_values(k, tokens, wv, bv, out, heads) / k_norm / q_norm)).to(x.dtype)
