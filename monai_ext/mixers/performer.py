"""Performer attention as a mixer."""

from __future__ import annotations

import math

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.ops.performer import check_feature, orthogonal_features, performer_attention


class PerformerMixer(Mixer):
    """Multi-head attention with random features of the softmax kernel, FAVOR+ (Choromanski et al., Performer, 2021).

    ``f(q) (f(k)^T v) / (f(q) sum f(k))``, not causal, with ``f(x) = exp(w x - |x|^2 / 2)`` in orthogonal random
    directions w: the more of them, the closer to softmax attention. O(N M C) time for M features and memory linear in
    N (see ``monai_ext.ops.performer``). The directions are drawn from PyTorch's generator when the mixer is made and
    belong to its state, so that loaded weights give the same results; they are common to all heads and stay as drawn.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        qkv_bias: a bias in the projection to queries, keys and values.
        num_features: random directions M; by default ``d ln d`` of a head's d channels.
        feature: ``"exp"``, or ``"relu"``, whose ``max(w x, 0)`` approximates no softmax.
        eps: added to every feature; by default 1e-4 (``"relu"``: 1e-3) as in performer-pytorch. The authors' own
            softmax attention has 1e-6, which draws long queries and keys less towards an average.

    Raises:
        ValueError: for no features, an unknown kind, or an eps that is not above 0.
    """

    projection: torch.Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        qkv_bias: bool = False,
        num_features: int | None = None,
        feature: str = "exp",
        eps: float | None = None,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        self.eps = check_feature(feature, eps)
        if num_features is None:
            num_features = max(1, int(self.head_dim * math.log(self.head_dim)))
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, or None for d ln d, got {num_features}.")
        self.feature = feature
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.register_buffer("projection", orthogonal_features(num_features, self.head_dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        x = performer_attention(*self.split_heads(self.qkv(x)), self.projection, self.feature, self.eps)
        return self.proj(self.merge_heads(x))
