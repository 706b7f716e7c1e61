"""Linear attention with the feature map ReLU and a bounded denominator (Zheng, L2ViT, arXiv 2501.16182, 2025).

Legend: B batch, H heads, N tokens, D channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from monai_ext.ops.folded import folded_attention
from monai_ext.ops.shapes import check_qkv


def relu_linear_attention_plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, temperature: torch.Tensor, min_denominator: float = 100.0
) -> torch.Tensor:
    """The definition with the (N, N) weights in memory, in the dtype of the inputs."""
    weights = F.relu(q) @ F.relu(k).transpose(-2, -1)
    return temperature.reshape(-1, 1, 1) * (weights @ v) / weights.sum(-1, keepdim=True).clamp_min(min_denominator)


def relu_linear_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, temperature: torch.Tensor, min_denominator: float = 100.0
) -> torch.Tensor:
    """Non-causal linear attention ``t_h f(q) (f(k)^T v) / max(f(q) sum_N f(k), min_denominator)`` with f = ReLU.

    O(N D^2) time and O(D^2) extra memory. The denominator is a sum over tokens, so the bound, which keeps training
    stable where a query meets next to no key, acts on short sequences: below it the weights of a token sum to less
    than one, and to zero for a query without a positive channel. The temperature multiplies the output, after the
    normalisation (before it, it would cancel).

    Departures from the reference: sums over tokens are means (and the bound is divided by N), which changes nothing
    but keeps their size independent of N; products and means are in float32 at least, also under autocast.

    Args:
        q: queries (B, H, N, D).
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        temperature: a factor for each head, (H,) or (H, 1, 1).
        min_denominator: smallest denominator.

    Returns:
        (B, H, N, D) in the dtype of q

    Raises:
        ValueError: for q, k, v of different or other than four-dimensional shapes, no tokens, or another number of
            temperatures than heads.
    """
    check_qkv(q, k, v)
    if temperature.numel() != q.shape[1]:
        raise ValueError(f"temperature must hold {q.shape[1]} numbers, one a head, got {tuple(temperature.shape)}.")
    dtype, acc = q.dtype, torch.promote_types(q.dtype, torch.float32)
    n = k.shape[-2]
    with torch.autocast(q.device.type, enabled=False):
        # contiguous once, or each product would keep a copy of its own for the backward
        q, k, v = (t.to(acc).contiguous() for t in (q, k, v))
        q, k = F.relu(q), F.relu(k)
        product = temperature.to(acc).reshape(-1, 1, 1) * (k.transpose(-2, -1) @ v / n)
        denominator = q @ k.mean(-2).unsqueeze(-1)
        out = q @ product / denominator.clamp_min(min_denominator / n)
    return out.to(dtype)


def relu_linear_self_attention(
    x: torch.Tensor,
    qkv: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    temperature: torch.Tensor,
    min_denominator: float = 100.0,
) -> torch.Tensor:
    """``relu_linear_attention`` of the projections of one set of tokens, then the output's projection, folded.

    Arguments and result as in ``monai_ext.ops.folded.folded_attention``.
    """
    least = min_denominator / x.shape[1]
    return folded_attention(x, qkv, bias, out, temperature.numel(), "relu", least, temperature)
