"""SimA attention as a mixer."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.ops.sima import sima_attention, sima_self_attention


class SimAMixer(Mixer):
    """Multi-head attention with q and k divided by their L1 norms over the tokens (Koohpayegani and Pirsiavash, 2022).

    ``q~ (k~^T v)`` without a softmax or a scale: O(N C^2 / H) time, or O(N^2 C) where a head has more channels than
    there are tokens, whichever is less; memory linear in N. Its output is small (see ``monai_ext.ops.sima``): what
    it adds to a residual grows in training, and float16 would lose it.

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
                sima_self_attention(x, self.qkv.weight, self.qkv.bias, self.proj.weight, self.num_heads)
                + self.proj.bias
            )
        return self.proj(self.merge_heads(sima_attention(*self.split_heads(self.qkv(x)))))
