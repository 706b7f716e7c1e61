"""Linear attention as a mixer."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.ops.linear import linear_attention, linear_self_attention


class LinearMixer(Mixer):
    """Multi-head attention with the feature map elu + 1 instead of a softmax (Katharopoulos et al., 2020).

    ``f(q) (f(k)^T v) / (f(q) sum f(k))``, not causal: O(N C^2 / H) time and memory linear in N (see
    ``monai_ext.ops.linear``). Weights are positive and sum to one, as a softmax's.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        qkv_bias: a bias in the projection to queries, keys and values.
    """

    def __init__(self, dim: int, num_heads: int, spatial_dims: int, qkv_bias: bool = False) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        if self.folds(x):
            return (
                linear_self_attention(x, self.qkv.weight, self.qkv.bias, self.proj.weight, self.num_heads)
                + self.proj.bias
            )
        return self.proj(self.merge_heads(linear_attention(*self.split_heads(self.qkv(x)))))
