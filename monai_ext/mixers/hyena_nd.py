"""The N-dimensional Hyena operator as a mixer, with its implicit filter.

Legend: B batch, N tokens, C channels, g1 .. gD the axes of the grid, F width of the filter's network.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.mixers.published_filter import PublishedFilter
from monai_ext.ops.hyena_nd import corner_kernel, hyena_nd
from monai_ext.ops.implicit_convolution import ImplicitKernel
from monai_ext.ops.sine_network import sine_network, weights_and_biases

FILTERS = ("joint", "product", "published", "published_product")
DIRECTIONS = ("two_sided", "causal", "alternate", "four")
# tokens after which the envelope has fallen to 1 %, from the first channel to the last
NEAR, FAR = 4.0, 64.0
# weight of the envelope's squared sum beside its energy in the gain
COHERENCE = 0.1


class ImplicitFilter(nn.Module):
    """A convolution kernel as a function of the offset between two tokens, for a grid of any size.

    ``kernel_c(o) = gain_c(grid) * mlp_c(p(o)) * exp(-a_c |o|_1)`` with the offset o in tokens and the coordinates
    ``p(o) = sign(o) log(1 + |o|)`` along each axis. Apart from one factor a channel the kernel does not depend on the
    grid: that of a small grid is the middle of that of a large one. The network has sine activations, the first of
    them of frequency ``omega``; the decays a_c are learnt, and start so that channels reach from ``NEAR`` to ``FAR``
    tokens. The gain follows from the envelope ``e = exp(-a_c |o|_1)`` on the grid at hand,
    ``1 / sqrt(sum e^2 + COHERENCE (sum e)^2)``: the first sum keeps the size of noise, the second that of a constant
    image (air), which a long smooth kernel would else amplify a thousandfold. All of it is computed in float32 at
    least, also under autocast.

    Args:
        channels: kernels to make.
        dims: axes of an offset.
        width: width F of the network.
        layers: its sine layers.
        omega: frequency of the first of them.
    """

    def __init__(self, channels: int, dims: int, width: int, layers: int, omega: float) -> None:
        super().__init__()
        self.omega = omega
        self.layers = nn.ModuleList(nn.Linear(width if i else dims, width) for i in range(layers))
        self.out = nn.Linear(width, channels, bias=False)
        reach = torch.logspace(math.log10(NEAR), math.log10(FAR), channels)
        self.log_decay = nn.Parameter((math.log(100) / reach).log())
        for i, layer in enumerate(self.layers):
            bound, phase = ((6 / width) ** 0.5, math.pi) if i else (1 / dims, math.pi / omega)
            nn.init.uniform_(layer.get_parameter("weight"), -bound, bound)
            nn.init.uniform_(layer.get_parameter("bias"), -phase, phase)
        # a sine has power 1/2
        nn.init.normal_(self.out.weight, std=(2 / width) ** 0.5)

    def forward(self, grid: tuple[int, ...], causal: bool) -> torch.Tensor:
        """The kernel (C, k1 .. kD) with 2g - 1 (causal: g) taps along each axis."""
        return self.implicit(grid, causal).dense()

    def implicit(self, grid: tuple[int, ...], causal: bool) -> ImplicitKernel:
        """The same, unmade."""
        weight = self.out.weight
        acc = torch.promote_types(weight.dtype, torch.float32)
        with torch.autocast(weight.device.type, enabled=False):
            offsets = [torch.arange(0 if causal else 1 - g, g, device=weight.device, dtype=acc) for g in grid]
            # features first, as the kernel is wanted
            z = torch.stack(torch.meshgrid(*[o.sign() * o.abs().log1p() for o in offsets], indexing="ij")).flatten(1)
            (first, *weights), (shift, *biases) = weights_and_biases(self.layers, acc)
            h = sine_network(z, [self.omega * first, *weights], [self.omega * shift, *biases])
            # the envelope is a product over the axes, and so are its sums
            decay = self.log_decay.to(acc).exp()
            energy, total = torch.ones_like(decay), torch.ones_like(decay)
            for o in offsets:
                e = torch.exp(-decay.unsqueeze(-1) * o.abs())
                energy, total = energy * e.square().sum(-1), total * e.sum(-1)
            gain = torch.rsqrt(energy + COHERENCE * total.square())
            distance = torch.stack(torch.meshgrid(*[o.abs() for o in offsets], indexing="ij")).sum(0).flatten()
            taps = tuple(len(o) for o in offsets)
            return ImplicitKernel(h, weight.to(acc) * gain.unsqueeze(-1), decay, distance, taps)


class HyenaNDMixer(Mixer):
    """N-dimensional Hyena: gates around a convolution as long as the grid (Zimerman and Wolf, 2023).

    Tokens are projected to q, k, v; a depthwise convolution of a few taps runs over each; then
    ``q * (kernel (*) (k * v) + skip * k * v)`` and an output projection, with the kernel from an ``ImplicitFilter``.
    O(C N log N) time. The number of heads plays no part: every channel has a kernel of its own.

    By default the implicit filter is ours and not the authors': offsets in tokens on a logarithmic scale instead of
    features of a fraction of one grid, so that the same weights serve any grid, odd or even, whole or window; learnt
    decays; a gain of its own on the true convolution instead of the reference's 1/(2L). Weights of the authors' filters
    do not map onto it; those of the projections, the short convolution and the skip do. With ``filter="published"``
    and ``"published_product"`` the filter is the authors' (``PublishedFilter``; their ``hyena2d_filter=True`` and
    False, with their standard window) for axes of up to ``max_length`` tokens, and all of their weights find a place.

    Departures from the paper besides: by default one kernel over offsets of either sign instead of flipped causal
    ones. When not bidirectional, the short convolution looks back only, too, and the mixer is causal
    along every axis, hence along the raster.

    The paper's ways to read an image are the other ``directions``: quadrants, whose kernel lies ahead of a token along
    every axis, from one corner of the image (``"causal"``, ``"alternate"``) or from all of them (``"four"``), which is
    one convolution here instead of four. Their weights ``mix`` lie in the order of no flip, last axis, first axis,
    both; in the authors' ``linear_mix`` that of both flips comes second. Their mode ``standard`` is what even layers
    of ``"alternate"`` do; ``seq`` flips the first convolution of every layer, which at their order of two is the only
    one, as odd layers do. Left out are the modes ``4dirp`` (the corners mixed by a map over all channels) and
    ``parallel`` (four times the channels behind the short convolution) of the authors' code.

    Initialised so that the output is as large as the input, but for published filters: independent unit-normal tokens
    give a standard deviation of 0.7 to 1.2 for N from 64 to 16 384 in 2D and 3D (measured at width 48; 0.5 on a line
    of tokens), a constant image one of 0.4 to 4. A network that re-initialises linear layers should leave those in
    here alone.

    Args:
        dim: channels of a token.
        num_heads: heads, for the sake of the contract only.
        spatial_dims: 2 or 3.
        qkv_bias: a bias in the projection to q, k and v.
        filter: ``"joint"``, one network over all coordinates, or ``"product"``, a kernel that is a product of one
            along each axis: fewer functions, but kernel and transforms of the size of the axes, not of the grid.
            ``"published"`` and ``"published_product"`` are the authors' filters, whose offsets are of one sign.
        bidirectional: offsets of either sign; False is another word for ``directions="causal"``.
        directions: ``"two_sided"``, a kernel over offsets of either sign; ``"causal"``, a token sees those behind it
            along every axis; ``"alternate"``, the same (with a short convolution that looks both ways) in even layers,
            and those ahead of it along every axis in odd ones; ``"four"``, a causal kernel from every corner of the
            image (eight in 3D), summed with learnt weights.
        filter_dim: width of the filter's network.
        filter_layers: its sine layers.
        omega: frequency of the first of them, in radians per unit of log(1 + tokens); not of a published filter.
        short_kernel: taps of the short convolution along each axis, odd.
        layer: number of the block, from 0, for ``"alternate"``; networks give it by themselves.
        max_length: tokens of the longest axis, of which coordinates are a fraction in a published filter.

    Raises:
        ValueError: for an unknown filter or unknown directions, directions that contradict ``bidirectional``, an even
            short kernel, a filter's network without width, layers or frequency, or a published filter with
            directions for which it holds no offsets or without a ``max_length``; in ``forward`` for a grid that is not
            that of the tokens, or longer than ``max_length``.
    """

    reads_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        qkv_bias: bool = False,
        filter: str = "joint",
        bidirectional: bool = True,
        filter_dim: int = 32,
        filter_layers: int = 3,
        omega: float = 3.0,
        short_kernel: int = 3,
        directions: str = "two_sided",
        layer: int = 0,
        max_length: int | None = None,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        if filter not in FILTERS:
            raise ValueError(f"filter must be one of {', '.join(map(repr, FILTERS))}, got {filter!r}.")
        if filter_dim < 1 or filter_layers < 1:
            raise ValueError(f"filter_dim and filter_layers must be at least 1, got {filter_dim} and {filter_layers}.")
        if omega <= 0:
            raise ValueError(f"omega must be above 0, got {omega}.")
        if short_kernel < 1 or short_kernel % 2 == 0:
            raise ValueError(f"short_kernel must be an odd number of taps, got {short_kernel}.")
        if directions not in DIRECTIONS:
            raise ValueError(f"directions must be one of {', '.join(map(repr, DIRECTIONS))}, got {directions!r}.")
        if not bidirectional and directions not in ("two_sided", "causal"):
            raise ValueError(f"directions={directions!r} looks both ways: leave bidirectional as it is.")
        self.directions = directions if bidirectional else "causal"
        self.causal = self.directions == "causal"  # type: ignore[misc]
        self.local = self.directions == "alternate"  # type: ignore[misc]
        self.backwards = self.local and layer % 2 == 1
        published = filter.startswith("published")
        if published and self.directions == "two_sided":
            raise ValueError(f"filter={filter!r} holds offsets of one sign: choose other directions than 'two_sided'.")
        if published and max_length is None:
            raise ValueError(f"filter={filter!r} needs a max_length: the tokens of the longest axis.")
        self.short_kernel = short_kernel
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.short = conv(3 * dim, 3 * dim, short_kernel, groups=3 * dim)
        # the axes of a product share the gain: each has that of a filter in one dimension
        kinds = {"joint": [spatial_dims], "product": [1] * spatial_dims}.get(filter, [])
        self.filters = nn.ModuleList(ImplicitFilter(dim, d, filter_dim, filter_layers, omega) for d in kinds)
        self.published = None
        if published and max_length is not None:
            product = filter == "published_product"
            self.published = PublishedFilter(dim, spatial_dims, max_length, filter_dim, filter_layers, product)
        self.skip = nn.Parameter(torch.randn(dim))
        self.mix = nn.Linear(2**spatial_dims, 1) if self.directions == "four" else None
        self.proj = nn.Linear(dim, dim)
        # three factors are multiplied: each must start at the size of the input
        nn.init.normal_(self.qkv.weight, std=dim**-0.5)
        # half of the power in a token's own tap, so that nothing is lost where axes have length 1
        nn.init.normal_(self.short.weight, std=(0.5 / short_kernel**spatial_dims) ** 0.5)
        own: tuple[Any, ...] = (..., *[short_kernel - 1 if self.causal else short_kernel // 2] * spatial_dims)
        with torch.no_grad():
            self.short.weight[own] += 0.5**0.5
        nn.init.normal_(self.proj.weight, std=dim**-0.5)
        if self.mix is not None:
            # the convolutions of the corners and the way past them keep their size in the sum
            nn.init.normal_(self.mix.weight, std=2 ** (-spatial_dims / 2))
        for part in (self.qkv, self.short, self.proj, self.mix):
            if part is not None and part.bias is not None:
                nn.init.zeros_(part.bias)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        parts = self.project_locally(x, grid, self.qkv, self.short, 3, causal=self.causal)
        q, k, v = (self.as_map(t, grid) for t in parts)
        if self.directions in ("two_sided", "causal"):
            y = hyena_nd(q, k, v, self._kernels(grid, self.causal), self.skip, self.causal)
        else:
            y = self._quadrants(q, k, v, grid)
        return self.proj(self.to_tokens(y))

    def _quadrants(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        kernels, skip = self._kernels(grid, causal=True), self.skip
        if self.mix is None:
            if not self.backwards:
                return hyena_nd(q, k, v, kernels, skip, causal=True)
            every = list(range(2, q.ndim))
            return hyena_nd(q.flip(every), k.flip(every), v.flip(every), kernels, skip, causal=True).flip(every)
        kernel, *factors = [kernels.dense()] if isinstance(kernels, ImplicitKernel) else kernels
        for factor in factors:
            kernel = kernel * factor
        # gates and the way past the convolution are the same from every corner
        weights = self.mix.weight.to(kernel.dtype).flatten()
        y = hyena_nd(q, k, v, corner_kernel(kernel, weights), weights.sum() * skip)
        return y + self.mix.bias.to(y.dtype)

    def _kernels(self, grid: tuple[int, ...], causal: bool) -> ImplicitKernel | list[torch.Tensor]:
        """The kernel unmade, or its factors, one an axis."""
        if self.published is not None:
            return self.published.kernels(grid)
        if len(self.filters) == 1:
            return self.filters[0].implicit(grid, causal)
        kernels = []
        for axis, (filter_, g) in enumerate(zip(self.filters, grid)):
            shape = [-1 if a == axis else 1 for a in range(len(grid))]
            kernels.append(filter_((g,), causal).reshape(self.dim, *shape))
        return kernels
