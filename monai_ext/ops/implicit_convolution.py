"""Long convolution with an implicit kernel, made as far as it reaches, used and dropped a few channels at a time.

Legend: B batch, C channels, g1 .. gD the axes of the grid, k1 .. kD those of the kernel, K their product, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensor
from torch.autograd.function import once_differentiable

from monai_ext.ops.long_convolution import Plan, channel_groups, check_taps

# logarithm of the smallest envelope
FAINT = -80.0


@dataclass(frozen=True)
class ImplicitKernel:
    """``kernel_c(o) = weight_c . features(o) * (exp(-decay_c distance(o)) + shift_c)`` for the offsets o.

    Args:
        features: (F, K), functions of the offset, as a rule the last layer of a small network.
        weight: (C, F), the kernels as sums of them.
        decay: (C,), how fast the envelope falls.
        distance: (K,), of the offset; takes no gradient.
        taps: k1 .. kD.
        shift: (C,), what the envelope falls to; 0 if None.
    """

    features: torch.Tensor
    weight: torch.Tensor
    decay: torch.Tensor
    distance: torch.Tensor
    taps: tuple[int, ...]
    shift: torch.Tensor | None = None

    def of(self, channels: slice) -> ImplicitKernel:
        """The kernels of some channels."""
        shift = None if self.shift is None else self.shift[channels]
        return replace(self, weight=self.weight[channels], decay=self.decay[channels], shift=shift)

    def dense(self) -> torch.Tensor:
        """The kernel (C, k1 .. kD) itself."""
        parts = []
        with torch.autocast(self.weight.device.type, enabled=False):
            for c in channel_groups(len(self.weight), len(self.distance), self.weight.device):
                envelope = _envelope(c, self.decay, self.distance)
                if self.shift is not None:
                    envelope = envelope + self.shift[c].unsqueeze(-1)
                parts.append((self.weight[c] @ self.features) * envelope)
        return torch.cat(parts).view(-1, *self.taps)


def implicit_convolution(
    x: torch.Tensor, kernel: ImplicitKernel, skip: torch.Tensor | None = None, causal: bool = False
) -> torch.Tensor:
    """``long_convolution(x, kernel.dense(), causal) + skip * x`` without the kernel ever being there as a whole.

    It is made for a group of channels at a time, in the forward and once more in the backward, where its gradient goes
    into those of the features, weights, decays and shifts at once: a kernel over all offsets of either sign is 2^D
    times the size of the image. O(C (F K + N log N)) time. Not twice differentiable.

    Args:
        x: (B, C, g1 .. gD).
        kernel: with taps as in ``long_convolution``; its tensors in float32 at least.
        skip: (C,), weight of the way past the convolution.
        causal: whether the kernel holds the offsets 0 .. g - 1 alone.

    Returns:
        (B, C, g1 .. gD) in the dtype of x and laid out as x; kernel and transforms are in float32 at least

    Raises:
        ValueError: for a kernel or a skip of other channels, dimensions or lengths than x asks for.
    """
    check_taps(x, (len(kernel.weight), *kernel.taps), causal)
    if math.prod(kernel.taps) != len(kernel.distance) or kernel.features.shape[1] != len(kernel.distance):
        raise ValueError(
            f"a kernel of {kernel.taps} taps needs a distance and features for each, got "
            f"{tuple(kernel.distance.shape)} and {tuple(kernel.features.shape)}."
        )
    if skip is not None and tuple(skip.shape) != (x.shape[1],):
        raise ValueError(f"skip must be (C,) = ({x.shape[1]},), got {tuple(skip.shape)}.")
    tensors = (kernel.features, kernel.weight, kernel.decay, kernel.shift, skip)
    with torch.autocast(x.device.type, enabled=False):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *tensors)):
            return _ImplicitConvolution.apply(x, *tensors, kernel.distance, kernel.taps, causal)
        return _forward(x, *tensors, kernel.distance, kernel.taps, causal)


def _envelope(c: slice, decay: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """(channels, K) without the shift. It ends before numbers lose bits, for those are slow."""
    return torch.mul(decay[c].neg().unsqueeze(-1), distance).clamp_(min=FAINT).exp_()


def _lay(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """x in memory as like: what follows reads both."""
    return x if like.is_contiguous() else torch.empty_like(like).copy_(x)


@dataclass
class _Block:
    """Channels whose kernels are made at a time, and the part of all offsets that they reach."""

    channels: slice
    plan: Plan
    groups: list[slice]  # what is transformed at a time
    box: tuple[slice, ...]  # the taps that are made
    distance: torch.Tensor

    def crop(self, features: torch.Tensor, taps: tuple[int, ...]) -> torch.Tensor:
        """(F, K) for the taps that are made."""
        if self.plan.taps == taps:
            return features
        return features.view(-1, *taps)[(slice(None), *self.box)].flatten(1)

    @property
    def own(self) -> tuple[Any, ...]:
        """Of all kernels the tap at offset 0."""
        return (slice(None), *(0 if self.plan.causal else k // 2 for k in self.plan.taps))


def _blocks(
    x: torch.Tensor,
    decay: torch.Tensor,
    shift: torch.Tensor | None,
    distance: torch.Tensor,
    taps: tuple[int, ...],
    causal: bool,
) -> list[_Block]:
    slices = channel_groups(x.shape[1], len(distance), x.device)
    whole = tuple(slice(0, k) for k in taps)
    boxes = [whole] * len(slices)
    known = not (torch.compiler.is_compiling() or torch.jit.is_tracing() or isinstance(decay, FakeTensor))
    if shift is None and known:
        boxes = _reach(torch.stack([decay[c].amin() for c in slices]), distance.view(taps), causal)
    blocks = []
    for c, box in zip(slices, boxes):
        plan = Plan(x, tuple(b.stop - b.start for b in box), causal)
        groups = [slice(g, min(g + plan.step, c.stop)) for g in range(c.start, c.stop, plan.step)]
        blocks.append(_Block(c, plan, groups, box, distance.view(taps)[box].flatten()))
    return blocks


def _reach(decays: torch.Tensor, distance: torch.Tensor, causal: bool) -> list[tuple[slice, ...]]:
    """For each decay the box of offsets out of which the envelope is below what the dtype resolves beside 1."""
    seen_to = 1 - math.log(torch.finfo(decays.dtype).eps)
    middles = [0 if causal else k // 2 for k in distance.shape]
    radii = []
    for axis, (k, middle) in enumerate(zip(distance.shape, middles)):
        nearest = distance.movedim(axis, 0).reshape(k, -1).amin(1)
        away = (torch.arange(k, device=decays.device) - middle).abs()
        radii.append(((decays.unsqueeze(-1) * nearest <= seen_to) * away).amax(1))
    boxes = []
    for reach in torch.stack(radii, 1).tolist():
        boxes.append(tuple(slice(0 if causal else m - r, m + r + 1) for m, r in zip(middles, reach)))
    return boxes


def _forward(
    x: torch.Tensor,
    features: torch.Tensor,
    weight: torch.Tensor,
    decay: torch.Tensor,
    shift: torch.Tensor | None,
    skip: torch.Tensor | None,
    distance: torch.Tensor,
    taps: tuple[int, ...],
    causal: bool,
) -> torch.Tensor:
    layout, x = x, x.contiguous()
    out = torch.empty_like(x)
    for block in _blocks(x, decay, shift, distance, taps, causal):
        c, plan = block.channels, block.plan
        envelope = _envelope(c, decay, block.distance)
        if shift is not None:
            envelope += shift[c].unsqueeze(-1)
        kernel = (weight[c] @ block.crop(features, taps)).mul_(envelope).view(-1, *plan.taps)
        if skip is not None:
            kernel[block.own] += skip[c]
        for g in block.groups:
            spectrum = plan.transform(kernel[g.start - c.start : g.stop - c.start])
            out[:, g] = plan.back(plan.transform(x[:, g]) * spectrum, plan.starts, plan.grid)
    return _lay(out, layout)


class _ImplicitConvolution(torch.autograd.Function):
    """The convolution, with kernels and spectra that are made anew in the backward."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> torch.Tensor:
        """Takes what ``_forward`` takes."""
        *tensors, ctx.taps, ctx.causal = inputs
        ctx.save_for_backward(*tensors)
        return _forward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, features, weight, decay, shift, skip, distance = ctx.saved_tensors
        layout, x, grad = x, x.contiguous(), grad.contiguous()
        need = ctx.needs_input_grad
        dx = torch.empty_like(x) if need[0] else None
        outputs = [
            torch.zeros_like(t) if n else None for t, n in zip((features, weight, decay, shift, skip), need[1:6])
        ]
        dfeatures, dweight, ddecay, dshift, dskip = outputs
        with torch.autocast(x.device.type, enabled=False):
            for block in _blocks(x, decay, shift, distance, ctx.taps, ctx.causal):
                c, plan = block.channels, block.plan
                h, origin = block.crop(features, ctx.taps), dict.fromkeys(plan.axes, 0)
                bare = _envelope(c, decay, block.distance)
                envelope = bare if shift is None else bare + shift[c].unsqueeze(-1)
                plain = weight[c] @ h
                kernel = (plain * envelope).view(-1, *plan.taps)
                own = kernel[block.own].clone()
                if skip is not None:
                    kernel[block.own] += skip[c]
                dk = torch.empty_like(kernel)
                for g in block.groups:
                    local = slice(g.start - c.start, g.stop - c.start)
                    spectrum = plan.transform(F.pad(grad[:, g], plan.front))
                    if dx is not None:
                        both = spectrum * plan.transform(kernel[local]).conj()
                        dx[:, g] = plan.back(both, origin, plan.grid)
                    if any(need[1:6]):
                        both = (spectrum * plan.transform(x[:, g]).conj()).sum(0)
                        dk[local] = plan.back(plan.sum_unused(both), origin, plan.taps)
                if dskip is not None:
                    dskip[c] = dk[block.own]
                kernel[block.own] = own
                dk, kernel = dk.flatten(1), kernel.flatten(1)
                if dshift is not None:
                    dshift[c] = (dk * plain).sum(1)
                if ddecay is not None:
                    changed = kernel if shift is None else plain.mul_(bare)
                    ddecay[c] = changed.mul_(dk) @ -block.distance
                if dweight is not None or dfeatures is not None:
                    dk.mul_(envelope)
                if dweight is not None:
                    dweight[c] = dk @ h.T
                if dfeatures is not None and h is features:
                    dfeatures.addmm_(weight[c].T, dk)
                elif dfeatures is not None:
                    part = dfeatures.view(-1, *ctx.taps)[(slice(None), *block.box)]
                    part += (weight[c].T @ dk).view(part.shape)
        return None if dx is None else _lay(dx, layout), *outputs, None, None, None
