"""The contract that every token mixer keeps."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn as nn


class Mixer(nn.Module):
    """Tokens in, tokens out.

    A mixer exchanges information between the tokens of a grid. Projections live inside it; norms, the residual,
    the dropout of its output and the feed-forward network are the block's. The same object serves a whole image or
    a batch of windows.

    Class attributes say what a mixer can do, so that shared code never asks for its name:

    - ``reads_grid``: it needs ``N == prod(grid)``. Without it the tokens are a set, and further ones (a class token)
      may be among them.
    - ``takes_bias``: it takes an additive score bias (relative positions, window masks).
    - ``causal``: a token sees only those before it along the raster.
    - ``fixed_grid``: its parameters belong to one grid.

    Args:
        dim: channels C of a token.
        num_heads: heads; ``dim`` must be divisible by it.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: for a width that the heads do not divide, or other than 2 or 3 spatial dimensions.
    """

    reads_grid: ClassVar[bool] = False
    takes_bias: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    fixed_grid: ClassVar[bool] = False

    def __init__(self, dim: int, num_heads: int, spatial_dims: int) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        if num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"the width {dim} is not divisible by num_heads {num_heads}: choose a multiple as width, "
                "or another number of heads."
            )
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.spatial_dims = spatial_dims

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
