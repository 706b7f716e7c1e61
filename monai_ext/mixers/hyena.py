"""Hyena along the raster as a mixer.

Legend: B batch, N tokens, C channels, K taps of a kernel, E positional features, F width of the filter's network.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn as nn

from monai_ext.mixers.base import Mixer
from monai_ext.ops.hyena import hyena
from monai_ext.ops.implicit_convolution import ImplicitKernel
from monai_ext.ops.sine_network import sine_network, weights_and_biases

# What an option is when nothing is said about it.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {
        "bidirectional": True,
        "max_length": None,
        "emb_dim": 33,
        "share_heads": False,
        "train_positions": False,
        "normalized": True,
        "short_kernel": 3,
    },
    # Hooper and Xue 2024, whose code says bidirectional but is causal
    "study": {
        "bidirectional": False,
        "max_length": 66000,
        "emb_dim": 3,
        "share_heads": True,
        "train_positions": True,
        "normalized": False,
        "short_kernel": 5,
    },
}
# the envelope falls to TARGET after a share of the sequence, from SLOW in the first channel to FAST in the last
TARGET, SLOW, FAST = 0.01, 1.5, 0.3
# weight of the envelope's squared sum beside its energy in the gain
COHERENCE = 0.1


class HyenaFilter(nn.Module):
    """Kernels as functions of the offset between two tokens along a sequence of any length.

    For the offset o, of either sign unless causal, and the length L: features
    ``z = [t, cos(f_1 w) .., -sin(f_1 w) ..]`` with ``t = o / (L - 1)``, ``w = 2 pi o / L`` and frequencies f from
    1e-4 to (E - 1) / 2 - 1; a network with sines ``sin(freq * x)``, whose trained freq all layers share; and the
    envelope ``exp(-|t| delta_c)`` with fixed decays. When ``normalized``, each kernel is multiplied by
    ``1 / sqrt(sum e^2 + COHERENCE (sum e)^2)`` of its envelope e, which keeps the size of noise and of constant
    images for every length. All of it is computed in float32 at least, also under autocast.

    Args:
        channels: kernels to make.
        causal: offsets 0 .. n - 1 only.
        max_length: L; None for that of the sequence at hand.
        emb_dim: number E of features, odd.
        width: width F of the network.
        train_positions: the features are parameters, for ``max_length`` offsets.
        normalized: see above.
    """

    def __init__(
        self,
        channels: int,
        causal: bool,
        max_length: int | None,
        emb_dim: int,
        width: int,
        train_positions: bool,
        normalized: bool,
    ) -> None:
        super().__init__()
        self.channels, self.causal, self.max_length = channels, causal, max_length
        self.emb_dim, self.normalized = emb_dim, normalized
        self.layers = nn.ModuleList([nn.Linear(emb_dim, width), nn.Linear(width, width), nn.Linear(width, width)])
        self.freq = nn.Parameter(torch.ones(1, width))
        self.out = nn.Linear(width, channels, bias=False)
        if normalized:
            nn.init.normal_(self.out.weight, std=(2 / width) ** 0.5)
        z = self._features(max_length, self.freq).T if train_positions and max_length else None
        self.z = None if z is None else nn.Parameter(z.contiguous())

    def _offsets(self, n: int, like: torch.Tensor) -> torch.Tensor:
        return torch.arange(0 if self.causal else 1 - n, n, dtype=like.dtype, device=like.device)

    def _features(self, n: int, like: torch.Tensor) -> torch.Tensor:
        """(E, K) for a sequence of n tokens."""
        length = self.max_length or n
        offsets, bands = self._offsets(n, like), (self.emb_dim - 1) // 2
        f = torch.linspace(1e-4, bands - 1, bands, dtype=like.dtype, device=like.device)
        w = f.unsqueeze(-1) * (2 * math.pi / length * offsets)
        return torch.cat([offsets.unsqueeze(0) / max(length - 1, 1), torch.cos(w), -torch.sin(w)])

    def forward(self, n: int) -> torch.Tensor:
        """The kernels (channels, K) for a sequence of n tokens, K = 2n - 1 or, when causal, n."""
        return self.implicit(n).dense()

    def implicit(self, n: int) -> ImplicitKernel:
        """The same, unmade."""
        weight = self.out.weight
        acc = torch.promote_types(weight.dtype, torch.float32)
        with torch.autocast(weight.device.type, enabled=False):
            like = weight.new_empty(0, dtype=acc)
            length = self.max_length or n
            if self.z is None:
                z = self._features(n, like)
            else:
                z = (self.z[:n] if self.causal else self.z[length - n : length + n - 1]).T
            freqs = self.freq.to(acc).expand(len(self.layers), -1)
            h = sine_network(z.to(acc), *weights_and_biases(self.layers, acc), freqs)
            unit = 1 / max(length - 1, 1)
            delta = torch.linspace(-math.log(TARGET) / SLOW, -math.log(TARGET) / FAST, self.channels).to(like)
            weight = weight.to(acc)
            if self.normalized:
                power = self._sum(2 * delta * unit, n) + COHERENCE * self._sum(delta * unit, n).square()
                weight = weight * torch.rsqrt(power).unsqueeze(-1)
            distance = self._offsets(n, like).abs() * unit
            return ImplicitKernel(h, weight, delta, distance, (len(distance),))

    def _sum(self, rate: torch.Tensor, n: int) -> torch.Tensor:
        """``exp(-rate |o|)`` summed over the offsets."""
        ahead = torch.expm1(-rate * n) / torch.expm1(-rate)
        return ahead if self.causal else 2 * ahead - 1


class HyenaMixer(Mixer):
    """Hyena over the tokens in row-major order: gates around convolutions as long as the sequence (Poli et al., 2023).

    A projection to the gates and values, a depthwise convolution of a few taps over each, then
    ``gate_2 * (kernel (*) (gate_1 * v) + skip * gate_1 * v)`` (order 2), with the kernel from a ``HyenaFilter``, and
    an output projection. O(C N log N) time. The channels of the projection are those of ``gate_1 .. gate_O, v``, the
    innermost gate first, when heads share filters head by head.

    Departures from the paper, by default: kernels for offsets of either sign, since an image has no past; coordinates
    that are a fraction of the sequence at hand, so that any length will do; 33 positional features, for with the
    authors' three the cosine and the sine are constants; a gain that does not let outputs grow with N. The gates lie in
    the projection in the study's order, the inner one first; HazyResearch/safari has the outer one first. Weights of
    safari therefore need the gates' chunks of ``in_proj`` and ``short`` in reverse, which at order 2 is the first two
    of the three changed about; the values' chunk, the last, stays.
    ``variant="study"`` is the Hyena of Hooper and Xue (2024) as their code computes it: causal, coordinates that are a
    fraction of 66 000 tokens for every image and window (inside of a small window the kernels are almost constant),
    three positional features, which are trained, filters shared by the heads, no gain, and a short convolution of five
    taps.

    Args:
        dim: channels of a token.
        num_heads: heads, of importance where they share filters.
        spatial_dims: 2 or 3.
        variant: ``"default"`` or ``"study"``: what the options below are that are None.
        bidirectional: kernels for offsets of either sign; otherwise the mixer is causal, the short convolution too.
        max_length: the number of tokens of which coordinates are a fraction, and the largest one allowed; with 0
            coordinates are a fraction of the sequence at hand.
        emb_dim: positional features, odd and at least 3.
        share_heads: all heads use the same filters, one for every channel of a head.
        train_positions: the features are parameters; needs a ``max_length``.
        normalized: kernels have a gain (see ``HyenaFilter``).
        filter_order: width of the filter's network.
        order: number of gates, at least 2.
        short_kernel: taps of the short convolution, odd; 3 by default and 5 in the study.

    Raises:
        ValueError: for an unknown variant or impossible numbers; in ``forward`` for more tokens than ``max_length``,
            or a grid that is not that of the tokens.
    """

    reads_grid = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        spatial_dims: int,
        variant: str = "default",
        bidirectional: bool | None = None,
        max_length: int | None = None,
        emb_dim: int | None = None,
        share_heads: bool | None = None,
        train_positions: bool | None = None,
        normalized: bool | None = None,
        filter_order: int = 64,
        order: int = 2,
        short_kernel: int | None = None,
    ) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(map(repr, VARIANTS))}, got {variant!r}.")
        given = {
            "bidirectional": bidirectional,
            "max_length": max_length,
            "emb_dim": emb_dim,
            "share_heads": share_heads,
            "train_positions": train_positions,
            "normalized": normalized,
            "short_kernel": short_kernel,
        }
        chosen = {**VARIANTS[variant], **{key: value for key, value in given.items() if value is not None}}
        self._check(chosen, filter_order, order)
        self.causal = not chosen["bidirectional"]  # type: ignore[misc]
        self.max_length = chosen["max_length"] or None
        self.order, self.short_kernel = order, chosen["short_kernel"]
        # heads whose channels are convolved with the same kernels
        self.copies = num_heads if chosen["share_heads"] else 1
        self.width = dim // self.copies
        total = (order + 1) * dim
        self.in_proj = nn.Linear(dim, total)
        self.short = nn.Conv1d(total, total, self.short_kernel, groups=total)
        self.filter = HyenaFilter(
            (order - 1) * self.width,
            self.causal,
            self.max_length,
            chosen["emb_dim"],
            filter_order,
            chosen["train_positions"],
            chosen["normalized"],
        )
        self.skip = nn.Parameter(torch.randn((order - 1) * self.width))
        self.out_proj = nn.Linear(dim, dim)

    @staticmethod
    def _check(chosen: dict[str, Any], filter_order: int, order: int) -> None:
        emb_dim, max_length, short_kernel = chosen["emb_dim"], chosen["max_length"], chosen["short_kernel"]
        if emb_dim < 3 or emb_dim % 2 == 0:
            raise ValueError(f"emb_dim must be odd and at least 3, got {emb_dim}.")
        if max_length is not None and max_length < 0:
            raise ValueError(f"max_length must be a number of tokens, or 0 for that of the image, got {max_length}.")
        if chosen["train_positions"] and not max_length:
            raise ValueError("train_positions=True needs a max_length: the tokens for which there are parameters.")
        if filter_order < 1 or order < 2:
            raise ValueError(f"filter_order must be at least 1 and order at least 2, got {filter_order} and {order}.")
        if short_kernel < 1 or short_kernel % 2 == 0:
            raise ValueError(f"short_kernel must be an odd number of taps, got {short_kernel}.")

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.refuse_bias(bias)
        self.check_grid(x, grid)
        b, n, c = x.shape
        if self.max_length is not None and n > self.max_length:
            raise ValueError(f"{n} tokens are more than max_length {self.max_length}: choose a larger max_length.")
        parts = self.project_locally(x, (n,), self.in_proj, self.short, self.order + 1, self.copies, self.causal)
        # heads that share kernels are further images: (B copies, width, N)
        *gates, v = (t.transpose(1, 2).reshape(b * self.copies, self.width, n) for t in parts)
        kernel, skip = self.filter.implicit(n), self.skip.view(self.order - 1, self.width)
        kernels = [kernel.of(slice(i * self.width, (i + 1) * self.width)) for i in range(self.order - 1)]
        y = hyena(gates, v, kernels, skip, self.causal)
        return self.out_proj(y.reshape(b, c, n).transpose(1, 2))
