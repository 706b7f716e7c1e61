"""HyenaPixel as a mixer.

Legend: B batch, N tokens, C channels, D spatial dimensions, K taps of the kernel along an axis, E features of an axis.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.ops.implicit_convolution import ImplicitKernel, implicit_convolution
from monai_ext.ops.sine_network import sine_network, weights_and_biases

# taps along each axis where none are given, by dimension
KERNEL_SIZES = {2: 111, 3: 31}
SHORT_KERNELS = {2: 5, 3: 3}
# the envelope falls to TARGET at a distance of so many kernels, from SLOW in the first channel to FAST in the last
TARGET, SLOW, FAST = 0.01, 1.5, 0.3


def sine_features(size: int, count: int) -> torch.Tensor:
    """The sine and cosine features of the positions 0 .. size - 1, interleaved: (count, size), in float64."""
    rates = torch.exp(torch.arange(0, count, 2, dtype=torch.float64) * (-math.log(10000) / count))
    angles = rates.unsqueeze(-1) * torch.arange(size)
    return torch.stack([angles.sin(), angles.cos()], 1).flatten(0, 1)


class PixelFilter(nn.Module):
    """A kernel of K taps along each axis, from learnt positions.

    ``kernel_c(o) = mlp_c(z(o)) * (exp(-|o| |delta_c|) + shift_c)`` with the Euclidean length of the offset o in
    tokens. The positions z start as sines and cosines of the tap's place along each axis (E of them an axis, those of
    the last axis first) and are parameters themselves, as are delta (which starts from ``-ln(TARGET) / (SLOW K)`` to
    the same with ``FAST``) and shift. For a grid that has less than K offsets along an axis only the middle of the
    kernel is made. Computed in float32 at least, also under autocast.

    Args:
        channels: kernels to make.
        dims: axes.
        size: K.
        features: E.
        width: width of the network.
        train_positions: whether z is a parameter, of E D K^D numbers; otherwise it is made when it is needed.
    """

    def __init__(self, channels: int, dims: int, size: int, features: int, width: int, train_positions: bool) -> None:
        super().__init__()
        self.dims, self.size, self.features = dims, size, features
        self.layers = nn.ModuleList([nn.Linear(dims * features, width), nn.Linear(width, width)])
        self.freqs = nn.Parameter(torch.ones(2, width))
        self.out = nn.Linear(width, channels, bias=False)
        slow, fast = math.log(TARGET) / SLOW / size, math.log(TARGET) / FAST / size
        self.deltas = nn.Parameter(torch.linspace(slow, fast, channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.z = (
            nn.Parameter(self._positions((size,) * dims).to(torch.get_default_dtype())) if train_positions else None
        )

    def _positions(self, taps: tuple[int, ...]) -> torch.Tensor:
        """(E D, *taps), of the taps in the middle."""
        axes = []
        for axis in reversed(range(self.dims)):
            start = (self.size - taps[axis]) // 2
            z = sine_features(self.size, self.features)[:, start : start + taps[axis]]
            shape = [-1 if a == axis else 1 for a in range(self.dims)]
            axes.append(z.reshape(self.features, *shape).expand(-1, *taps))
        return torch.cat(axes)

    def forward(self, grid: tuple[int, ...]) -> torch.Tensor:
        """The kernel (channels, *taps), of min(K, 2g - 1) taps along each axis of g points."""
        return self.implicit(grid).dense()

    def implicit(self, grid: tuple[int, ...]) -> ImplicitKernel:
        """The same, unmade."""
        weight = self.out.weight
        acc = torch.promote_types(weight.dtype, torch.float32)
        taps = tuple(min(self.size, 2 * g - 1) for g in grid)
        with torch.autocast(weight.device.type, enabled=False):
            if self.z is None:
                z = self._positions(taps).to(acc).to(weight.device)
            else:
                z = self.z[(slice(None), *(slice((self.size - k) // 2, (self.size + k) // 2) for k in taps))]
            h = sine_network(z.to(acc).flatten(1), *weights_and_biases(self.layers, acc), self.freqs.to(acc))
            squares = [(torch.arange(k, device=h.device, dtype=acc) - k // 2).square() for k in taps]
            distance = torch.stack(torch.meshgrid(*squares, indexing="ij")).sum(0).sqrt().flatten()
            return ImplicitKernel(h, weight.to(acc), self.deltas.to(acc).abs(), distance, taps, self.shift.to(acc))


class HyenaPixelMixer(Mixer):
    """HyenaPixel: a gate, a large centred kernel, a gate (Spravil et al., arXiv 2402.19305, 2024).

    A projection to q, k and v, a depthwise convolution of a few taps over each, then
    ``v * (kernel (*) (q * k) + skip * q * k)`` with a kernel of K taps along each axis from a ``PixelFilter``, and an
    output projection. O(C N log N) time. A token reaches (K - 1) / 2 others in every direction: with
    ``kernel_size = 2 g - 1``, as in the paper, the whole of a grid of side g. On a smaller grid the rest of the kernel
    plays no part, on a larger one the kernel stays as it is, so that the same weights serve any grid. The number of
    heads plays no part.

    Departures from the paper: 3D, with E features for the third axis, too; there kernels of 31 taps, whose learnt
    positions (E D K^D numbers) would else outgrow the network, and short convolutions of 3 (27 taps in all, where the
    paper's have 25).

    Args:
        dim: channels of a token.
        num_heads: heads, for the sake of the contract only.
        spatial_dims: 2 or 3.
        kernel_size: taps K along each axis, odd; 111 in 2D and 31 in 3D where none are given.
        norm: layer norms without a bias on ``q * k`` and on what the output projection takes.
        train_positions: the positions are parameters.
        emb_dim: features E of an axis, even; the paper has 16.
        filter_order: width of the filter's network.
        short_kernel: taps of the short convolution along each axis, odd; 5 in 2D and 3 in 3D where none are given.

    Raises:
        ValueError: for a kernel of even size or impossible numbers; in ``forward`` for a grid that is not that of
            the tokens.
    """

    reads_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        kernel_size: int | None = None,
        norm: bool = False,
        train_positions: bool = True,
        emb_dim: int = 16,
        filter_order: int = 64,
        short_kernel: int | None = None,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        kernel_size = KERNEL_SIZES[spatial_dims] if kernel_size is None else kernel_size
        short_kernel = SHORT_KERNELS[spatial_dims] if short_kernel is None else short_kernel
        for name, value in (("kernel_size", kernel_size), ("short_kernel", short_kernel)):
            if value < 1 or value % 2 == 0:
                raise ValueError(f"{name} must be an odd number of taps, got {value}.")
        if emb_dim < 2 or emb_dim % 2:
            raise ValueError(f"emb_dim must be an even number of features of an axis, got {emb_dim}.")
        if filter_order < 1:
            raise ValueError(f"filter_order must be at least 1, got {filter_order}.")
        self.in_proj = nn.Linear(dim, 3 * dim)
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.short = conv(3 * dim, 3 * dim, short_kernel, groups=3 * dim)
        self.filter = PixelFilter(dim, spatial_dims, kernel_size, emb_dim, filter_order, train_positions)
        self.skip = nn.Parameter(torch.randn(dim))
        self.qk_norm = nn.LayerNorm(dim, bias=False) if norm else None
        self.out_norm = nn.LayerNorm(dim, bias=False) if norm else None
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        q, k, v = self.project_locally(x, grid, self.in_proj, self.short, 3)
        z = q * k
        if self.qk_norm is not None:
            z = self.qk_norm(z)
        y = v * self.to_tokens(implicit_convolution(self.as_map(z, grid), self.filter.implicit(grid), self.skip))
        if self.out_norm is not None:
            y = self.out_norm(y)
        return self.out_proj(y)
