"""Scattering by complex wavelets as a mixer.

Legend: B batch, N tokens, C channels, D axes, g1 .. gD the grid, padded to even numbers, K blocks of channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from monai_ext.mixers.base import Mixer
from monai_ext.ops.scattering import blend_channels, blend_rows, wavelet_join, wavelet_split

MIXINGS = ("channel", "channel_token")


class Scattering(nn.Module):
    """A weight for every place of the low band, complex layers for the oriented bands, and back (D = 2 or 3).

    The oriented bands go through two complex layers over the channels of a block, with a ReLU of real and imaginary
    parts between them, the same at all places and in all bands; then, with ``rows``, through two over the places of a
    row, other ones for every row. All parameters start normal with a deviation of 0.02, as the authors'.

    Args:
        channels: C.
        grid: tokens along each axis; odd ones are padded by repeating the last token.
        num_blocks: blocks of channels; the largest number up to it that divides C is taken.
        rows: the layers over the places of a row (2D).
    """

    def __init__(self, channels: int, grid: Sequence[int], num_blocks: int, rows: bool) -> None:
        super().__init__()
        self.padding = [p for g in reversed(grid) for p in (0, g % 2)]
        self.num_blocks = next(k for k in range(min(num_blocks, channels), 0, -1) if channels % k == 0)
        size, even = channels // self.num_blocks, [g + g % 2 for g in grid]

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.02 * torch.randn(*shape))

        self.low_weight = normal(channels, *even)
        self.weights = nn.ParameterList(normal(2, self.num_blocks, size, size) for _ in range(2))
        self.biases = nn.ParameterList(normal(2, self.num_blocks, size) for _ in range(2))
        h, w = (even[0] // 2, even[1] // 2) if rows else (0, 0)
        self.row_weights = nn.ParameterList(normal(2, h, w, w) for _ in range(2 if rows else 0))
        self.row_biases = nn.ParameterList(normal(2, h, w) for _ in range(2 if rows else 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, g1 .. gD), in the dtype of x; everything is computed in float32 at least, also under autocast."""
        blocks = []
        for number, block in enumerate(x.chunk(self.num_blocks, dim=1)):
            if torch.is_grad_enabled():
                # the bands take several times the memory of x: make them anew in the backward, block by block
                block = checkpoint(self._block, block, number, use_reentrant=False, preserve_rng_state=False)
            else:
                block = self._block(block, number)
            blocks.append(block)
        return torch.cat(blocks, dim=1)

    def _block(self, x: torch.Tensor, number: int) -> torch.Tensor:
        """Channels of one block; in all of this no channel meets those of another block."""
        grid, dtype, acc = x.shape[2:], x.dtype, torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(acc)
            if any(self.padding):
                x = F.pad(x, self.padding, mode="replicate")
            low, high = wavelet_split(x.movedim(1, -1).contiguous())
            low = low * self.low_weight.to(acc).chunk(self.num_blocks)[number].movedim(0, -1)
            weights = [w.to(acc)[:, number] for w in self.weights]
            high = blend_channels(high, weights, [b.to(acc)[:, number] for b in self.biases])
            if len(self.row_weights):
                high = blend_rows(high, [w.to(acc) for w in self.row_weights], [b.to(acc) for b in self.row_biases])
            y = wavelet_join(low, high).movedim(-1, 1)
        return y[(..., *(slice(g) for g in grid))].to(dtype)


class ScatteringMixer(Mixer):
    """The spectral layer of the Scattering Vision Transformer (Patro and Agneeswaran, arXiv 2311.01310, 2023).

    The image of each channel is split by the first level of the dual-tree complex wavelet transform into a low band
    and six oriented complex bands (see ``monai_ext.ops.scattering``). The low band is multiplied with a weight for
    every channel and place, the oriented bands go through two complex layers over the channels of a block
    ("Einstein blending"), and the inverse transform puts them together. O(C N + C^2 N / K) time. There is no
    projection. A token reaches 16 others in every direction, and with ``mixing="channel_token"`` all of its row: the
    mixer is local. The weights of the low band belong to one grid. The number of heads plays no part.

    With ``mixing="channel_token"`` one half of the channels goes through a depthwise 3 x 3 convolution, the other
    through the above and, after the layers over channels, two over the places of each row of the bands; the channels
    of the two halves alternate in the output.

    Departures from the authors' code, which is made for square grids of 56 and 28 tokens: any grid, an odd one padded
    by repeating the last token; where four blocks do not divide the channels, fewer. Under autocast the transforms
    stay in float32.

    Args:
        dim: channels of a token.
        num_heads: heads, for the sake of the contract only.
        spatial_dims: 2.
        grid: tokens along each axis, to which the weights belong; networks give it by themselves.
        mixing: ``"channel"`` or ``"channel_token"``, which needs an even width.
        num_blocks: blocks K of channels; the largest number up to it that divides the channels is taken.

    Raises:
        ValueError: without a grid, for an unknown mixing, an odd width where it must be even, or no blocks; in
            ``forward`` for another grid.
    """

    reads_grid = True
    local = True
    fixed_grid = True
    dims = (2,)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        grid: Sequence[int] | None = None,
        mixing: str = "channel",
        num_blocks: int = 4,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        grid = self.bind_grid(grid)
        if mixing not in MIXINGS:
            raise ValueError(f"mixing must be one of {', '.join(map(repr, MIXINGS))}, got {mixing!r}.")
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, got {num_blocks}.")
        tokens = mixing == "channel_token"
        if tokens and dim % 2:
            raise ValueError(f"mixing='channel_token' halves the channels: the width must be even, got {dim}.")
        self.conv = nn.Conv2d(dim // 2, dim // 2, 3, padding=1, groups=dim // 2) if tokens else None
        self.scattering = Scattering(dim // 2 if tokens else dim, grid, num_blocks, tokens)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        u = x.transpose(1, 2).unflatten(2, grid)  # not as for a convolution: the transform wants channels last
        if self.conv is None:
            y = self.scattering(u)
        else:
            first, second = u.chunk(2, dim=1)
            y = torch.stack([self.conv(first.contiguous()), self.scattering(second).to(first.dtype)], dim=2)
            y = y.flatten(1, 2)
        if torch.is_autocast_enabled(x.device.type):  # as a layer under autocast would
            y = y.to(torch.get_autocast_dtype(x.device.type))
        return self.to_tokens(y)
