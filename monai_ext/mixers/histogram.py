"""Histogram self-attention as a mixer.

Legend: B batch, N tokens, C channels, g1 .. gD the axes of the grid.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from monai_ext.mixers.base import Mixer
from monai_ext.mixers.reduced import check_rate
from monai_ext.ops.histogram import histogram_attention, sort_axes, unsort_axes


class HistogramMixer(Mixer):
    """Attention among bins of tokens that were sorted by value (the DHSA of Histoformer, Sun et al., arXiv 2407.10172,
    2024).

    The first half of the channels is sorted along each axis of the grid in turn; a 1x1 and a depthwise
    convolution of 3 taps make two pairs of queries and keys, and values. The values of a channel are sorted over all
    tokens, queries and keys follow; attention runs among the bins of a head's channels once with neighbours in rank
    as a bin, once with every f-th token (see ``monai_ext.ops.histogram``). The product of both goes back to the
    places before the sorting by value, through the output projection, and the first half of its channels to those
    before the sorting along the axes.

    O(N (log N + C^2 f / H)) time, memory linear in N: the convolutions to queries and keys are made anew in the
    backward. Orders are constants for the backward; gradients flow through what was sorted. Values are computed and
    sorted in float32 at least, also under autocast, since rounding would change their order. The tokens themselves
    are sorted as they come: if these are bfloat16, nearly equal ones keep their order, and the output, which jumps
    where two tokens swap, differs from that of float32 tokens.

    As the authors': as many bins as heads, all convolutions without bias, zeros after the last token where the number
    of bins does not divide N. Departures: any number of dimensions; a softmax_1 that cannot overflow; stable sorting,
    so that equal values keep their order; ``attn_drop_rate``, which the authors do not have.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        bins: bins f of each channel; without it as many as heads.
        qkv_bias: a bias in all three convolutions (the authors have one switch for them).
        attn_drop_rate: dropout of the attention weights, in training only.

    Raises:
        ValueError: for less than one bin, or a rate that is no probability.
    """

    reads_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        bins: int | None = None,
        qkv_bias: bool = False,
        attn_drop_rate: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        self.bins = num_heads if bins is None else bins
        if self.bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins}.")
        self.attn_drop_rate = check_rate(attn_drop_rate)
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        # q1, k1, q2, k2, v
        self.qkv = conv(dim, 5 * dim, 1, bias=qkv_bias)
        self.depthwise = conv(5 * dim, 5 * dim, 3, padding=1, groups=5 * dim, bias=qkv_bias)
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.proj = conv(dim, dim, 1, bias=qkv_bias)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        half = self.dim // 2
        x = x.transpose(1, 2).unflatten(2, grid)
        first, places = sort_axes(x[:, :half])
        x = torch.cat((first, x[:, half:]), 1)
        acc = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            v = self._convolve(x.to(acc), 4, 5).flatten(2)
        v, ranks = v.sort(dim=-1, stable=True)
        out = self._attend(x, v, ranks, False) * self._attend(x, v, ranks, True)
        out = torch.empty_like(out).scatter(-1, ranks, out).unflatten(-1, grid)
        out = self.proj(out.to(x.dtype))
        out = torch.cat((unsort_axes(out[:, :half], places), out[:, half:]), 1)
        return self.to_tokens(out).contiguous()

    def _convolve(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """The parts ``start`` to ``stop`` of q1, k1, q2, k2, v, in the dtype of x."""
        at, convolve = slice(start * self.dim, stop * self.dim), F.conv2d if x.ndim == 4 else F.conv3d
        for layer, padding in ((self.qkv, 0), (self.depthwise, 1)):
            weight, groups = layer.weight[at].to(x.dtype), 1 if padding == 0 else x.shape[1]
            bias = None if layer.bias is None else layer.bias[at].to(x.dtype)
            x = convolve(x, weight, bias, padding=padding, groups=groups)
        return x

    def _attend(self, x: torch.Tensor, v: torch.Tensor, ranks: torch.Tensor, frequency: bool) -> torch.Tensor:
        """One of the two kinds of bins, (B, C, N) in the order of the values."""
        dropout_p = self.attn_drop_rate if self.training else 0.0

        def attend(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            start = 2 if frequency else 0
            q, k = (t.gather(-1, ranks) for t in self._convolve(x, start, start + 2).flatten(2).chunk(2, 1))
            return histogram_attention(q, k, v, self.temperature, self.bins, frequency, dropout_p)

        if not torch.is_grad_enabled():
            return attend(x, v)
        # a dozen tensors of the size of x would be kept for the backward
        return checkpoint(attend, x, v, use_reentrant=False, preserve_rng_state=dropout_p > 0)
