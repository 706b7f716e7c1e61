"""Sequence-normalised attention as a mixer."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.ops.seqnorm import SCALES, seqnorm_attention, seqnorm_self_attention


class SeqNormMixer(Mixer):
    """Multi-head attention whose q, k and v are normalised over the tokens instead of a softmax (Khader et al., 2024).

    ``q^ (k^^T v^) / N`` with the normalisation folded into the D x D product: O(N C^2 / H) time, and the only
    tensors of the size of q, k and v are these themselves. With many tokens not even these are made: all follows from
    the products of the tokens' channels (see ``monai_ext.ops.seqnorm``), at half the cost of the projections alone.
    There is no option for a bias of the qkv projection, since subtracting the mean removes it. The affine map after
    the normalisation (a weight and a bias per channel, separate for q, k and v) starts at weights of one and small
    random biases, not at zero, where the biases of k and v, which act through their product only, would stay for ever.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        scale: what the sum over tokens is multiplied with: ``"n"`` 1/N (the paper), ``"sqrt_n"`` 1/sqrt(N), with
            which the output of independent tokens does not shrink as N grows.
        eps: added to the variance.

    Raises:
        ValueError: for an unknown scale.
    """

    def __init__(self, dim: int, num_heads: int, spatial_dims: int, scale: str = "n", eps: float = 1e-5) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))}, got {scale!r}.")
        self.scale = scale
        self.eps = eps
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.norm_weight = nn.Parameter(torch.ones(3, num_heads, self.head_dim))
        self.norm_bias = nn.Parameter(0.02 * torch.randn(3, num_heads, self.head_dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        affine = self.norm_weight, self.norm_bias
        if self.folds(x):
            return (
                seqnorm_self_attention(x, self.qkv.weight, *affine, self.proj.weight, self.eps, self.scale)
                + self.proj.bias
            )
        q, k, v = self.split_heads(self.qkv(x))
        x = seqnorm_attention(q, k, v, *affine, self.eps, self.scale)
        return self.proj(self.merge_heads(x))
