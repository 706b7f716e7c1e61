"""Neighbourhood attention as a mixer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.ops.backends import check_backend
from monai_ext.ops.neighborhood import BACKENDS, neighborhood_attention

# tokens along an axis: about as many in a window of 3D (125) as the scores of a tile bear
KERNEL = {2: 7, 3: 5}


def per_axis(field: str, value: int | Sequence[int], spatial_dims: int, odd: bool = False) -> tuple[int, ...]:
    """One number for every axis, from one for all or one each.

    Raises:
        ValueError: for other than ``spatial_dims`` whole numbers of at least 1, or even ones that must be odd.
    """
    values = (value,) * spatial_dims if isinstance(value, int) else tuple(value)
    if len(values) != spatial_dims or any(not isinstance(v, int) or v < 1 or (odd and v % 2 == 0) for v in values):
        raise ValueError(
            f"{field} must be {'an odd number' if odd else 'a number of at least 1'}, or {spatial_dims} of them, "
            f"one for each axis; got {value!r}."
        )
    return values


class NeighborhoodMixer(Mixer):
    """Multi-head attention of each token to its nearest ones (Hassani et al., 2022; dilated: Hassani and Shi, 2022).

    A token attends ``kernel_size`` tokens along each axis, ``dilation`` apart; at the borders the window is shifted
    inwards, so that it is always full. Where an axis has too few tokens for that (the authors' package refuses this
    case) a token attends all tokens of the axis that lie a multiple of the dilation away. O(N K C) time with K tokens
    in a window, memory linear in N and no copy of the keys for each window (see ``monai_ext.ops.neighborhood``).
    PyTorch's flex attention is not used: it has no backward on a CPU, and its block masks gain over the tiled form on
    CUDA only, where natten is there.

    Args:
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        kernel_size: tokens of the window along each axis, odd: one number or one for each; 7 in 2D and 5 in 3D where
            it is not given.
        dilation: distance between them: one number or one for each axis.
        relative_position: a learnt bias of the scores for each head and relative position, ``rpb``
            (H, 2 k1 - 1, 2 k2 - 1, ..), as in the authors' first version.
        qkv_bias: a bias in the projection to queries, keys and values.
        backend: ``"natten"`` for the authors' package (CUDA), ``"torch"``, or ``"auto"`` for the first that can run.

    Raises:
        ValueError: for an even window, a dilation below 1, or an unknown backend.
    """

    reads_grid = True
    local = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        kernel_size: int | Sequence[int] | None = None,
        dilation: int | Sequence[int] = 1,
        relative_position: bool = False,
        qkv_bias: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        check_backend(backend, BACKENDS)
        self.backend = backend
        size = KERNEL[spatial_dims] if kernel_size is None else kernel_size
        self.kernel_size = per_axis("kernel_size", size, spatial_dims, odd=True)
        self.dilation = per_axis("dilation", dilation, spatial_dims)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.rpb = None
        if relative_position:
            self.rpb = nn.Parameter(torch.empty(num_heads, *(2 * size - 1 for size in self.kernel_size)))
            nn.init.trunc_normal_(self.rpb, std=0.02)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        q, k, v = self.split_heads(self.qkv(x))
        x = neighborhood_attention(q, k, v, grid, self.kernel_size, self.dilation, self.rpb, self.backend)
        return self.proj(self.merge_heads(x))
