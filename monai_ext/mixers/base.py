"""The contract that every token mixer keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_ext.ops.depthwise import depthwise_convolution


class Mixer(nn.Module):
    """Tokens in, tokens out.

    A mixer exchanges information between the tokens of a grid. Projections live inside it; norms, the residual,
    the dropout of its output and the feed-forward network are the block's. The same object serves a whole image or
    a batch of windows.

    Class attributes say what a mixer can do, so that shared code never asks for its name:

    - ``reads_grid``: it needs ``N == prod(grid)``. Without it the tokens are a set, and further ones (a class token)
      may be among them.
    - ``takes_bias``: it takes an additive score bias (relative positions, window masks).
    - ``takes_windows``: beside a bias it takes a grid cut into windows, by ``mix_windows``, without copies of them.
    - ``causal``: a token sees only those before it along the raster.
    - ``local``: a token sees some of the others only (its neighbourhood, or a pattern), not all.
    - ``fixed_grid``: its parameters belong to one grid, the option ``grid``, which networks give by themselves.
    - ``dims``: the spatial dimensions for which it is defined.

    ``causal`` and ``local`` may depend on options: then the object has its own.

    Args:
        dim: channels C of a token.
        num_heads: heads; ``dim`` must be divisible by it.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: for a width that the heads do not divide, or spatial dimensions for which there is no such mixer.
    """

    reads_grid: ClassVar[bool] = False
    takes_bias: ClassVar[bool] = False
    takes_windows: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    local: ClassVar[bool] = False
    fixed_grid: ClassVar[bool] = False
    dims: ClassVar[tuple[int, ...]] = (2, 3)

    def __init__(self, dim: int, num_heads: int, spatial_dims: int) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        if spatial_dims not in self.dims:
            raise ValueError(
                f"{type(self).__name__} is defined for images of {' and '.join(map(str, self.dims))} dimensions, "
                f"not of {spatial_dims}: choose another mixer."
            )
        if num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"the width {dim} is not divisible by num_heads {num_heads}: choose a multiple as width, "
                "or another number of heads."
            )
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.spatial_dims = spatial_dims
        self.grid: tuple[int, ...] | None = None

    def bind_grid(self, grid: Sequence[int] | None) -> tuple[int, ...]:
        """For mixers with ``fixed_grid``: remember the grid to which the parameters belong.

        Raises:
            ValueError: without a grid, or for one of other dimensions.
        """
        if grid is None:
            raise ValueError(f"the parameters of {type(self).__name__} belong to one grid: give it as grid=[…].")
        if len(grid) != self.spatial_dims or min(grid) < 1:
            raise ValueError(f"grid must be {self.spatial_dims} numbers of tokens, got {tuple(grid)}.")
        self.grid = tuple(grid)
        return self.grid

    def check_grid(self, x: torch.Tensor, grid: tuple[int, ...]) -> None:
        """For mixers that read the grid.

        Raises:
            ValueError: where the tokens do not fill the grid, or it is not the one of the parameters.
        """
        if len(grid) != self.spatial_dims or math.prod(grid) != x.shape[1]:
            raise ValueError(f"{x.shape[1]} tokens do not fill a grid of {tuple(grid)} in {self.spatial_dims}D.")
        if self.grid is not None and tuple(grid) != self.grid:
            raise ValueError(
                f"the parameters of this {type(self).__name__} belong to a grid of {self.grid} tokens, got "
                f"{tuple(grid)}: give images of the size for which the network was made, or choose another mixer."
            )

    @staticmethod
    def to_map(x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        """Tokens (B, N, C) to a map (B, C, *grid) for a convolution.

        A copy, for tokens seen as a map lie channels last: that is slower on a CPU, and in bfloat16 PyTorch 2.13 then
        gives wrong gradients of a convolution's weight, with a stride or where the taps are more than a short axis.
        """
        return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *grid).contiguous()

    @staticmethod
    def as_map(x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        """Tokens (B, N, C) seen as a map (B, C, *grid), without a copy."""
        return x.transpose(1, 2).unflatten(2, grid)

    @staticmethod
    def to_tokens(x: torch.Tensor) -> torch.Tensor:
        """A map (B, C, *grid) to tokens (B, N, C)."""
        return x.flatten(2).transpose(1, 2)

    @staticmethod
    def project_locally(
        x: torch.Tensor,
        grid: tuple[int, ...],
        proj: nn.Linear,
        short: nn.Module,
        parts: int,
        copies: int = 1,
        causal: bool = False,
    ) -> list[torch.Tensor]:
        """A joint projection (B, N, parts C) and the depthwise convolution behind it, as parts (B, N, C).

        They are made one by one, for one of them stays in a CPU's cache, all together do not.

        Args:
            x: tokens (B, N, C), row-major over the grid.
            grid: tokens along each axis; ``(N,)`` for a convolution along the raster.
            proj: to parts C channels.
            short: of parts C channels in as many groups; its padding plays no part.
            parts: gates and values.
            copies: the channels lie (copies, parts, C / copies).
            causal: the convolution looks back only.
        """

        def part(t: torch.Tensor | None, i: int) -> torch.Tensor | None:
            return None if t is None else t.unflatten(0, (copies, parts, -1))[:, i].flatten(0, 1)

        found, ahead = [], 0 if causal else None
        for i in range(parts):
            projected = F.linear(x, part(proj.weight, i), part(proj.bias, i))
            found.append(depthwise_convolution(projected, grid, part(short.weight, i), part(short.bias, i), ahead))
        return found

    def folds(self, x: torch.Tensor) -> bool:
        """Whether a linear attention folds projections into its matrices: with many tokens, in full precision.

        In a low one the products over tokens stay in float32, of which there would be more. An export leaves the number
        of tokens open.
        """
        if torch.compiler.is_exporting():
            return False
        low = torch.is_autocast_enabled(x.device.type) or x.dtype.itemsize < 4
        return not low and x.shape[1] >= 4 * self.dim

    def split_heads(self, qkv: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A joint projection (B, N, 3C) as q, k and v, each a view (B, H, N, C / H)."""
        b, n, _ = qkv.shape
        return qkv.view(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)

    @staticmethod
    def merge_heads(x: torch.Tensor) -> torch.Tensor:
        """(B, H, N, C / H) to tokens (B, N, C)."""
        return x.transpose(1, 2).flatten(2)

    @staticmethod
    def refuse_bias(bias: torch.Tensor | None) -> None:
        """For mixers without scores.

        Raises:
            ValueError: for any bias.
        """
        if bias is not None:
            raise ValueError("this mixer has no scores to which a bias could be added; pass bias=None.")

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        """Mix the tokens.

        Args:
            x: tokens (B, N, C), row-major over the grid.
            grid: tokens along each axis, ``prod(grid) == N``.
            bias: additive score bias that broadcasts to (B, H, N, N); only for mixers with ``takes_bias``.

        Returns:
            tokens (B, N, C)
        """
        raise NotImplementedError("a mixer defines forward(x, grid, bias=None)")
