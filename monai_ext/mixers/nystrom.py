"""Nystroem attention as a mixer."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.ops.nystrom import check_nystrom, nystrom_attention


class NystromMixer(Mixer):
    """Multi-head softmax attention approximated through landmarks (Xiong et al., Nystroemformer, 2021).

    ``s(q k~^T) s(q~ k~^T)^+ s(q~ k^T) v + conv(v)``: the landmarks q~ and k~ are means of segments of consecutive
    tokens along the raster, ^+ a pseudo-inverse of six Newton-Schulz steps, and conv a depthwise convolution along the
    raster with one kernel a head. O(N M C) time for M landmarks, memory linear in N (see ``monai_ext.ops.nystrom``).
    With no more tokens than landmarks (windows) the attention is exact. The order of the tokens matters, the shape of
    their grid does not.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        qkv_bias: a bias in the projection to queries, keys and values.
        landmarks: number M of segments. The published settings are 32 to 256; the cost grows with it.
        conv_kernel: taps of the convolution of the values, odd; 0 leaves it out.
        segments: where M does not divide the tokens: ``"even"``, segments whose lengths differ by one, or ``"padded"``,
            zeros in front that take part, as in a published implementation.
        iterations: steps of the pseudo-inverse.
        inverse_start: what the pseudo-inverse starts from: ``"own"``, the norms of each head and sample (an option of
            the authors' code), or ``"batch"``, the largest of them (its default; samples then depend on the others
            of their batch). Published weights want ``"batch"``.

    Raises:
        ValueError: for no landmarks or steps, unknown segments or start, or an even convolution; in ``forward`` for a
            grid that is not that of the tokens.
    """

    reads_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        qkv_bias: bool = False,
        landmarks: int = 64,
        conv_kernel: int = 33,
        segments: str = "even",
        iterations: int = 6,
        inverse_start: str = "own",
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        check_nystrom(landmarks, segments, iterations, inverse_start)
        if conv_kernel < 0 or (conv_kernel and conv_kernel % 2 == 0):
            raise ValueError(f"conv_kernel must be an odd number of taps, or 0 for none, got {conv_kernel}.")
        self.landmarks = landmarks
        self.segments = segments
        self.iterations = iterations
        self.inverse_start = inverse_start
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.conv = None
        if conv_kernel:
            self.conv = nn.Conv2d(
                num_heads, num_heads, (conv_kernel, 1), padding=(conv_kernel // 2, 0), groups=num_heads, bias=False
            )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        q, k, v = self.split_heads(self.qkv(x))
        out = nystrom_attention(q, k, v, self.landmarks, self.segments, self.iterations, self.inverse_start)
        if self.conv is not None:
            # the map of a head is its tokens by its channels
            out = out + self.conv(v)
        return self.proj(self.merge_heads(out))
