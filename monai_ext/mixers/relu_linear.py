"""ReLU linear attention as a mixer."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.ops.relu_linear import relu_linear_attention, relu_linear_self_attention


class ReLULinearMixer(Mixer):
    """The linear global attention of L2ViT: multi-head linear attention with ReLU features (Zheng, 2025).

    ``t_h f(q) (f(k)^T v) / max(f(q) sum f(k), min_denominator)`` with f = ReLU, not causal: O(N C^2 / H) time and
    memory linear in N (see ``monai_ext.ops.relu_linear``). The learnable temperature t_h of a head starts at
    ``(C / H)^-1/2``: the scale of a softmax's scores, put behind the normalisation, since on q or k it would cancel.
    So the output starts that much smaller than an average of values. L2ViT adds a convolution of its own, which gathers
    what is near (``monai_ext.blocks.local_concentration``).

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        qkv_bias: a bias in the projection to queries, keys and values.
        min_denominator: smallest denominator (100 in the authors' code). It is a sum over all tokens: with few of
            them, as in windows, it is below the bound, and the output shrinks with their number; a smaller bound
            keeps it normalised.

    Raises:
        ValueError: for a bound that is not above 0.
    """

    def __init__(
        self, dim: int, num_heads: int, spatial_dims: int, qkv_bias: bool = False, min_denominator: float = 100.0
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        if not min_denominator > 0:
            raise ValueError(f"min_denominator must be above 0, got {min_denominator}: the authors' value is 100.")
        self.min_denominator = min_denominator
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.temperature = nn.Parameter(torch.full((num_heads, 1, 1), self.head_dim**-0.5))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        if self.folds(x):
            weights = self.qkv.weight, self.qkv.bias, self.proj.weight
            return relu_linear_self_attention(x, *weights, self.temperature, self.min_denominator) + self.proj.bias
        q, k, v = self.split_heads(self.qkv(x))
        x = relu_linear_attention(q, k, v, self.temperature, self.min_denominator)
        return self.proj(self.merge_heads(x))
