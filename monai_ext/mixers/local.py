"""Local attention over zero-padded windows as a mixer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.mixers.neighborhood import per_axis
from monai_ext.ops.local import local_attention


class LocalMixer(Mixer):
    """Attention of each token to the positions that a convolution would see (MSA-Conv; Zhang et al., TiC, 2023).

    A softmax over the positions of a window centred on the token; those outside of the grid count as keys and values
    of zeros, as a convolution's padding does, so that the output shrinks towards the borders. O(N K C) time with K
    positions in a window, memory linear in N and no copy of the keys for each window (see ``monai_ext.ops.local``).
    PyTorch's flex attention is not used: it has no backward on a CPU, and its block masks gain over the tiled form on
    CUDA only, where natten is there for large windows (``NeighborhoodMixer``).

    The source has a single head over all channels, with scores ``q k / sqrt(C)``, and so has this mixer:
    ``num_heads`` counts with ``multi_head`` only. It adds the residual, which is a block's here, and its output goes
    through a k x k convolution and a ReLU; in place of these stands the projection that every mixer has.

    Args:
        dim: channels of a token.
        num_heads: heads, with ``multi_head``.
        spatial_dims: 2 or 3.
        kernel_size: positions of the window along each axis, odd: one number or one for each.
        dilation: distance between them: one number or one for each axis.
        multi_head: ``num_heads`` heads with scores ``q k / sqrt(C / H)`` instead of a single one.
        qkv_bias: a bias in the projection to queries, keys and values (the source has one).

    Raises:
        ValueError: for an even window, or a dilation below 1.
    """

    reads_grid = True
    local = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        kernel_size: int | Sequence[int] = 3,
        dilation: int | Sequence[int] = 1,
        multi_head: bool = False,
        qkv_bias: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        if not multi_head:
            self.num_heads, self.head_dim = 1, dim
        self.kernel_size = per_axis("kernel_size", kernel_size, spatial_dims, odd=True)
        self.dilation = per_axis("dilation", dilation, spatial_dims)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        q, k, v = self.split_heads(self.qkv(x))
        return self.proj(self.merge_heads(local_attention(q, k, v, grid, self.kernel_size, self.dilation)))
