"""The implicit filter of the N-dimensional Hyena operator as its authors published it.

Legend: C channels, D axes, L tokens of an axis at most, E positional features, F width of the network, g1 .. gD the
axes of the grid.
"""

from __future__ import annotations

import math

import torch
import torch.nn as nn

from monai_ext.ops.implicit_convolution import ImplicitKernel
from monai_ext.ops.sine_network import sine_network, weights_and_biases

# features of a position: a fraction of the axis, a cosine and a sine
FEATURES, FREQUENCY = 3, 1e-4
# the envelope falls to TARGET after a share of the axis, from SLOW in the first channel to FAST in the last
TARGET, SLOW, FAST = 0.01, 1.5, 0.3


class PublishedFilter(nn.Module):
    """Kernels for offsets of 0 .. g - 1 along each axis, from trained features of the offset (Zimerman and Wolf, 2023).

    The features of an offset o along an axis are a row of z, which starts as ``[t, cos(1e-4 w), -sin(1e-4 w)]`` with
    ``t = o / (L - 1)`` and ``w = 2 pi o / L``, and is the same for all axes. One network reads those of all axes,
    ``kernel_c(o) = mlp_c(z(o_1), .., z(o_D)) exp(-delta_c (t_1 + .. + t_D)) / 2L``, or, as a product, one each that of
    its own. Its layers are sines ``sin(freq * x)`` that share a trained freq; the decays delta are fixed. 1/2L is by
    what the authors' transform scales its convolutions. Computed in float32 at least, also under autocast.

    Args:
        channels: kernels to make.
        dims: axes.
        length: L.
        width: width F of a network.
        layers: its sine layers.
        product: a network for each axis.

    Raises:
        ValueError: for less than two tokens; from ``kernels`` for an axis with more than L.
    """

    def __init__(self, channels: int, dims: int, length: int, width: int, layers: int, product: bool) -> None:
        super().__init__()
        if length < 2:
            raise ValueError(f"max_length must be at least 2 tokens for a published filter, got {length}.")
        self.channels, self.length, self.product = channels, length, product
        networks, features = (dims, FEATURES) if product else (1, dims * FEATURES)
        w = 2 * math.pi / length * torch.arange(length) * FREQUENCY
        self.z = nn.Parameter(torch.stack([torch.linspace(0, 1, length), w.cos(), -w.sin()], -1))
        self.freq = nn.Parameter(torch.ones(1, width))
        self.networks = nn.ModuleList(
            nn.ModuleList(nn.Linear(width if i else features, width) for i in range(layers)) for _ in range(networks)
        )
        self.outs = nn.ModuleList(nn.Linear(width, channels, bias=False) for _ in range(networks))

    def kernels(self, grid: tuple[int, ...]) -> ImplicitKernel | list[torch.Tensor]:
        """The kernel unmade or, of a product, its factors (C, 1 .., g, .. 1)."""
        if max(grid) > self.length:
            raise ValueError(f"an axis of {grid} is longer than max_length {self.length}: choose a larger max_length.")
        weight = self.outs[0].get_parameter("weight")
        acc = torch.promote_types(weight.dtype, torch.float32)
        with torch.autocast(weight.device.type, enabled=False):
            z = self.z.to(acc).T
            slow, fast = -math.log(TARGET) / SLOW, -math.log(TARGET) / FAST
            delta = torch.linspace(slow, fast, self.channels, device=weight.device, dtype=acc)
            t = torch.arange(self.length, device=weight.device, dtype=acc) / (self.length - 1)
            if self.product:
                parts = [self._implicit(i, z[:, :g], delta, t[:g], (g,)) for i, g in enumerate(grid)]
                shapes = [[-1 if a == axis else 1 for a in range(len(grid))] for axis in range(len(grid))]
                made = [part.dense().reshape(self.channels, *shape) for part, shape in zip(parts, shapes)]
                return [made[0] / (2 * self.length), *made[1:]]
            features = [
                z[:, :g].reshape(FEATURES, *[g if a == axis else 1 for a in range(len(grid))]).expand(-1, *grid)
                for axis, g in enumerate(grid)
            ]
            distance = torch.stack(torch.meshgrid(*[t[:g] for g in grid], indexing="ij")).sum(0).flatten()
            return self._implicit(0, torch.cat(features).flatten(1), delta, distance, grid, 1 / (2 * self.length))

    def _implicit(
        self,
        number: int,
        z: torch.Tensor,
        delta: torch.Tensor,
        distance: torch.Tensor,
        taps: tuple[int, ...],
        scale: float = 1.0,
    ) -> ImplicitKernel:
        layers = self.networks[number]
        h = sine_network(z, *weights_and_biases(layers, z.dtype), self.freq.to(z.dtype).expand(len(layers), -1))
        return ImplicitKernel(h, scale * self.outs[number].get_parameter("weight").to(h.dtype), delta, distance, taps)
