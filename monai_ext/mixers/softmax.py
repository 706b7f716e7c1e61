"""Softmax attention as a mixer."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.ops.softmax import softmax_attention


class SoftmaxMixer(Mixer):
    """Multi-head softmax attention with PyTorch's fused kernel.

    ``softmax(q k^T / sqrt(d) + bias) v``, O(N^2 C) time. Memory is linear in N without a bias, or with one that needs
    no gradient. The additive ``bias`` carries relative positions and the mask of shifted windows.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        qkv_bias: a bias in the projection to queries, keys and values.
        attn_drop_rate: dropout of the attention weights, in training only.
    """

    takes_bias = True

    def __init__(
        self, dim: int, num_heads: int, spatial_dims: int, qkv_bias: bool = False, attn_drop_rate: float = 0.0
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        if not 0 <= attn_drop_rate <= 1:
            raise ValueError(f"attn_drop_rate must lie between 0 and 1, got {attn_drop_rate}.")
        self.attn_drop_rate = attn_drop_rate
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = self.split_heads(self.qkv(x))
        x = softmax_attention(q, k, v, bias, self.attn_drop_rate if self.training else 0.0)
        return self.proj(self.merge_heads(x))
