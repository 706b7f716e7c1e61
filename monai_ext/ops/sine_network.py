"""A small network of sines over many positions (Sitzmann et al., arXiv 2006.09661, 2020): what makes kernels of Hyenas.

Legend: E features of a position, K positions, F width of a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch.autograd.function import once_differentiable

# Numbers of a layer that are made at a time: what bounds the working memory. A CPU is fastest where they fit its cache.
BLOCK_CPU, BLOCK = 2**18, 2**24


def sine_network_plain(
    z: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    freqs: torch.Tensor | None = None,
) -> torch.Tensor:
    """The definition, all positions at once."""
    for i, (weight, bias) in enumerate(zip(weights, biases)):
        z = torch.addmm(bias.unsqueeze(-1), weight, z)
        z = torch.sin(z if freqs is None else freqs[i].unsqueeze(-1) * z)
    return z


def sine_network(
    z: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    freqs: torch.Tensor | None = None,
) -> torch.Tensor:
    """``h <- sin(freq_l (W_l h + b_l))`` from the positions' features z on, for l = 1 .. L.

    Blocks of positions go through all layers while a CPU's cache holds them, and once more in the backward; so nothing
    of the size of a layer is kept. O(K F^2) time. Not twice differentiable.

    Args:
        z: (E, K).
        weights: L of them, (F, E) and then (F, F).
        biases: (F,), each.
        freqs: (L, F); 1 if None.

    Returns:
        (F, K) in the dtype of z, which all others share

    Raises:
        ValueError: for tensors whose shapes do not fit each other.
    """
    sizes = [z.shape[0] if z.ndim == 2 else 0, *(len(bias) for bias in biases)]
    shapes = [tuple(w.shape) for w in weights]
    fit = shapes == list(zip(sizes[1:], sizes)) and all(bias.ndim == 1 for bias in biases)
    fit = fit and (freqs is None or all(tuple(freqs.shape) == (len(shapes), size) for size in sizes[1:]))
    if not shapes or not fit:
        raise ValueError(
            f"weights of {shapes} do not lead from features (E, K) of {tuple(z.shape)} to layers of {sizes[1:]}, or "
            "the frequencies are not (L, F)."
        )
    parts = [*weights, *biases, *([] if freqs is None else [freqs])]
    if torch.is_grad_enabled() and any(t.requires_grad for t in (z, *parts)):
        return _SineNetwork.apply(z, len(shapes), *parts)
    return _forward(z, len(shapes), *parts)


def weights_and_biases(
    layers: Iterable[nn.Module], dtype: torch.dtype
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Those of linear layers."""
    found = [(layer.get_parameter("weight"), layer.get_parameter("bias")) for layer in layers]
    return [weight.to(dtype) for weight, _ in found], [bias.to(dtype) for _, bias in found]


class _Layers:
    """The layers of a block of positions, in memory that all blocks share: fresh memory would cost a CPU more time."""

    def __init__(self, z: torch.Tensor, layers: int, parts: Sequence[torch.Tensor]) -> None:
        self.weights = parts[:layers]
        self.biases = [t.unsqueeze(-1) for t in parts[layers : 2 * layers]]
        self.freqs = parts[-1].unsqueeze(-1).unbind(0) if len(parts) > 2 * layers else [None] * layers
        widths, k = [len(w) for w in self.weights], z.shape[1]
        step = min(max(1, (BLOCK_CPU if z.device.type == "cpu" else BLOCK) // max(widths)), k)
        self.blocks = [slice(start, min(start + step, k)) for start in range(0, k, step)]
        self.sums, self.sines = ([z.new_empty(w, step) for w in widths] for _ in range(2))

    def run(self, z: torch.Tensor) -> list[torch.Tensor]:
        """What goes into each layer, and what comes out of the last; the sums before the sines stay, too."""
        found, n = [z], z.shape[1]
        for weight, bias, freq, a, h in zip(self.weights, self.biases, self.freqs, self.sums, self.sines):
            a, h = a[:, :n], h[:, :n]
            torch.mm(weight, found[-1], out=a).add_(bias)
            found.append(torch.sin(a if freq is None else torch.mul(a, freq, out=h), out=h))
        return found


def _forward(z: torch.Tensor, layers: int, *parts: torch.Tensor) -> torch.Tensor:
    network = _Layers(z, layers, parts)
    out = z.new_empty(len(parts[layers - 1]), z.shape[1])
    for at in network.blocks:
        out[:, at] = network.run(z[:, at])[-1]
    return out


class _SineNetwork(torch.autograd.Function):
    """The network, with layers that are made anew in the backward."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, layers: int, *parts: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(z, *parts)
        ctx.layers = layers
        return _forward(z, layers, *parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        z, *parts = ctx.saved_tensors
        network, layers = _Layers(z, ctx.layers, parts), ctx.layers
        dz = torch.empty_like(z) if ctx.needs_input_grad[0] else None
        grads = [torch.empty_like(h) for h in network.sines[:-1]]
        sums = [torch.zeros_like(t) for t in parts]
        d_weights, d_biases, d_freqs = sums[:layers], sums[layers : 2 * layers], sums[-1]
        with torch.autocast(z.device.type, enabled=False):
            for at in network.blocks:
                inputs, n = network.run(z[:, at]), at.stop - at.start
                d = grad[:, at]
                for i in reversed(range(layers)):
                    a, freq, slope = network.sums[i][:, :n], network.freqs[i], network.sines[i][:, :n]
                    # the sine of this layer has been read: its memory takes the slope
                    torch.cos(a if freq is None else torch.mul(a, freq, out=slope), out=slope).mul_(d)
                    if freq is not None:
                        d_freqs[i] += a.mul_(slope).sum(1)
                        slope.mul_(freq)
                    d_weights[i].addmm_(slope, inputs[i].T)
                    d_biases[i] += slope.sum(1)
                    if i:
                        d = torch.mm(parts[i].T, slope, out=grads[i - 1][:, :n])
                    elif dz is not None:
                        dz[:, at] = parts[0].T @ slope
        return dz, None, *sums
