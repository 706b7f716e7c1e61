"""Softmax attention (Vaswani et al., "Attention Is All You Need", 2017).

Legend: B batch, H heads, N queries, M keys, D channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def softmax_attention_plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """The definition, with the whole score matrix in memory: ``softmax(q k^T / sqrt(D) + bias) v``."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1) @ v


def softmax_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None = None,
    dropout_p: float = 0.0,
) -> torch.Tensor:
    """Fused softmax attention, linear in memory where PyTorch has a kernel for the case.

    Args:
        q: queries (B, H, N, D).
        k: keys (B, H, M, D).
        v: values (B, H, M, D).
        bias: additive score bias or mask that broadcasts to (B, H, N, M). With a bias that needs a gradient
            PyTorch keeps the scores for the backward.
        dropout_p: dropout of the attention weights. It applies whenever it is above 0: a caller passes 0 in eval mode.

    Returns:
        (B, H, N, D)
    """
    if bias is not None:
        bias = bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p)
