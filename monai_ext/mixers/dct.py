"""Attention among the low frequencies of the grid as a mixer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_ext.mixers.base import Mixer
from monai_ext.mixers.reduced import check_rate
from monai_ext.ops.dct import dct_low, dct_low_inverse, kept_block
from monai_ext.ops.softmax import softmax_attention


class DCTMixer(Mixer):
    """Multi-head attention among the low coefficients of a cosine transform of the image (the DCT-attention of
    DCT-HistoTransformer, Ranjbar et al., arXiv 2410.19166, 2024).

    An orthonormal DCT-II along each axis; the first ``ceil(keep g)`` coefficients of an axis of g remain, M in all;
    each is a token of C channels of a multi-head softmax attention; the result, with zeros for all other
    coefficients, is transformed back. O(M^2 C + N C k) time with k coefficients along an axis, memory linear in N:
    half of each axis is a sixteenth of attention's time in 2D, a sixty-fourth in 3D.

    High frequencies are dropped, as in the paper: the output is as smooth as the kept block, and what is finer
    passes by on the residual of the block around the mixer (in the paper on a convolutional branch beside it).

    Left open by the paper and chosen here: the share kept; projections to queries, keys and values of the
    coefficients, with their bias on every coefficient; the output projection in the space of tokens, where
    its bias is the same for every token (its matrix, which commutes with the transform, is applied to the fewer
    coefficients). The coefficients carry no position, as in the paper; the first, sqrt(N) times the mean of the tokens,
    outweighs the others wherever that mean is large.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        keep: share of the frequencies that are kept along every axis, above 0 and at most 1, or a list with one share
            an axis. At least one coefficient, the mean, remains.
        qkv_bias: a bias in the projection to queries, keys and values.
        attn_drop_rate: dropout of the attention weights, in training only.

    Raises:
        ValueError: for a share outside of (0, 1] or of other dimensions, or a rate that is no probability.
    """

    reads_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        keep: float | Sequence[float] = 0.5,
        qkv_bias: bool = False,
        attn_drop_rate: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        shares = tuple(keep) if isinstance(keep, Sequence) else (keep,) * spatial_dims
        if len(shares) != spatial_dims or not all(isinstance(s, (int, float)) and 0 < s <= 1 for s in shares):
            raise ValueError(
                f"keep must be a share above 0 and at most 1, or {spatial_dims} of them, one an axis; got {keep}."
            )
        self.keep = shares
        self.attn_drop_rate = check_rate(attn_drop_rate)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        kept = kept_block(grid, self.keep)
        q, k, v = self.split_heads(self.qkv(dct_low(x, grid, kept)))
        out = softmax_attention(q, k, v, dropout_p=self.attn_drop_rate if self.training else 0.0)
        out = dct_low_inverse(F.linear(self.merge_heads(out), self.proj.weight), grid, kept)
        return out + self.proj.bias.to(out.dtype)
