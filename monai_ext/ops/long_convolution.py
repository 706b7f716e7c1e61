"""Depthwise convolution with a kernel as long as the grid, in 1 to 3 dimensions, by FFT.

Legend: B batch, C channels, g1 .. gD the axes of the grid, k1 .. kD those of the kernel.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Complex numbers of a group of channels that is transformed at a time: what bounds the working memory. A CPU is
# fastest where they fit its cache.
GROUP_CPU, GROUP = 2**18, 2**22


def long_convolution_plain(x: torch.Tensor, kernel: torch.Tensor, causal: bool = False) -> torch.Tensor:
    """The direct sum, one shifted copy of x for every tap of the kernel: O(N K) time."""
    grid, taps = x.shape[2:], kernel.shape[1:]
    out = torch.zeros_like(x)
    for tap in itertools.product(*(range(k) for k in taps)):
        shift = [t if causal else t - k // 2 for t, k in zip(tap, taps)]
        to: tuple[Any, ...] = (..., *(slice(max(s, 0), g + min(s, 0)) for s, g in zip(shift, grid)))
        of: tuple[Any, ...] = (..., *(slice(max(-s, 0), g - max(s, 0)) for s, g in zip(shift, grid)))
        of_tap: tuple[Any, ...] = (slice(None), *tap)
        value = kernel[of_tap].reshape(-1, *[1] * len(grid))
        out[to] += value * x[of]
    return out


def long_convolution(x: torch.Tensor, kernel: torch.Tensor, causal: bool = False) -> torch.Tensor:
    """Linear (zero-padded, not circular) depthwise convolution over a grid of any dimension.

    ``y[p] = sum_q kernel[p - q] x[q]``. A kernel that covers every pair of grid points has 2g - 1 taps along an axis
    of g points, the middle one at offset 0, or, when causal, g taps for the offsets 0 .. g - 1, so that a point sees
    only those which lie behind it along every axis. It may have fewer taps (an odd number; when causal, any), and
    then reaches less far. One tap along an axis leaves that axis out, which is how a separable kernel is applied axis
    by axis. Axes are padded with as much as the kernel reaches, to a length with factors 2, 3 and 5 only, each just
    before it is transformed and cropped just after it comes back. O(C N log N) time. The
    backward transforms x and kernel again instead of keeping spectra of 2^D times their size, and both passes work
    on groups of channels; so memory is that of x, kernel and y plus a bounded rest. Not twice differentiable.

    Args:
        x: (B, C, g1 .. gD).
        kernel: (C, k1 .. kD), each k odd and at most 2g - 1 (causal: at most g, odd or even).
        causal: whether the kernel holds the offsets 0 .. g - 1 alone.

    Returns:
        (B, C, g1 .. gD) in the dtype of x; transforms are in float32 at least

    Raises:
        ValueError: for a kernel of other channels, dimensions or lengths than x asks for.
    """
    check_taps(x, tuple(kernel.shape), causal)
    if torch.is_grad_enabled() and (x.requires_grad or kernel.requires_grad):
        return _LongConvolution.apply(x, kernel, causal)
    return _forward(x, kernel, causal)


def check_taps(x: torch.Tensor, kernel: tuple[int, ...], causal: bool) -> None:
    """
    Raises:
        ValueError: for a kernel of a shape that does not fit x.
    """
    grid, taps = tuple(x.shape[2:]), kernel[1:]
    full = tuple(g if causal else 2 * g - 1 for g in grid)
    if not grid or len(taps) != len(grid) or kernel[0] != x.shape[1]:
        raise ValueError(
            f"x must be (B, C, *grid) and the kernel (C, *taps) with as many axes, got {tuple(x.shape)} and {kernel}."
        )
    if any(k > f or k < 1 or (k % 2 == 0 and not causal) for k, f in zip(taps, full)):
        raise ValueError(
            f"a kernel for the grid {grid} has {full} taps or fewer{'' if causal else ', an odd number'}, got {taps}."
        )


def fft_length(n: int) -> int:
    """The smallest length of at least n without prime factors above 5, for which FFTs are fast."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest = rest // prime
        if rest == 1:
            return n
        n += 1


def channel_groups(channels: int, taps: int, device: torch.device) -> list[slice]:
    """Groups of channels whose kernels are made at a time: on a CPU small ones, whose memory is used again at once."""
    step = max(1, (8 * GROUP_CPU if device.type == "cpu" else 16 * GROUP) // max(1, taps))
    return [slice(c, min(c + step, channels)) for c in range(0, channels, step)]


class Plan:
    """Which axes are transformed, to what length, and where the result starts."""

    def __init__(self, x: torch.Tensor, taps: tuple[int, ...], causal: bool) -> None:
        self.taps, self.causal = taps, causal
        self.grid = tuple(x.shape[2:])
        self.acc = torch.promote_types(x.dtype, torch.float32)
        # axes counted from the end; one-tap axes need no transform
        self.axes = [i - len(self.grid) for i, k in enumerate(self.taps) if k > 1]
        # this is enough: what wraps around falls outside of the part that is kept
        reach = {a: self.taps[a] - 1 if causal else self.taps[a] // 2 for a in self.axes}
        self.lengths = {a: fft_length(self.grid[a] + reach[a]) for a in self.axes}
        self.starts = {a: 0 if causal else reach[a] for a in self.axes}
        # Gradients are correlations. Their origin is where the forward starts to read, which the phase of a placed
        # gradient expresses: it is padded in front by the start of its axis.
        self.front = [p for axis in reversed(range(-len(self.grid), 0)) for p in (self.starts.get(axis, 0), 0)]
        spectrum = x.shape[0]
        for i, g in enumerate(self.grid):
            spectrum *= self.lengths.get(i - len(self.grid), g)
        self.step = max(1, 2 * (GROUP_CPU if x.device.type == "cpu" else GROUP) // max(1, spectrum))
        self.groups = [slice(c, min(c + self.step, x.shape[1])) for c in range(0, x.shape[1], self.step)]

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(self.acc)
        for number, axis in enumerate(reversed(self.axes)):
            x = (torch.fft.fft if number else torch.fft.rfft)(x, n=self.lengths[axis], dim=axis)
        return x

    def sum_unused(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over the axes with one tap."""
        axes = [i - len(self.grid) for i, k in enumerate(self.taps) if k == 1]
        return x.sum(axes, keepdim=True) if axes else x

    def back(self, spectrum: torch.Tensor, starts: dict[int, int], sizes: tuple[int, ...]) -> torch.Tensor:
        for number, axis in enumerate(self.axes, start=1):
            inverse = torch.fft.ifft if number < len(self.axes) else torch.fft.irfft
            spectrum = inverse(spectrum, n=self.lengths[axis], dim=axis).narrow(axis, starts[axis], sizes[axis])
        return spectrum


def _forward(x: torch.Tensor, kernel: torch.Tensor, causal: bool) -> torch.Tensor:
    plan = Plan(x, tuple(kernel.shape[1:]), causal)
    out = torch.empty_like(x)
    for c in plan.groups:
        out[:, c] = plan.back(plan.transform(x[:, c]) * plan.transform(kernel[c]), plan.starts, plan.grid)
    return out


class _LongConvolution(torch.autograd.Function):
    """The convolution, with spectra that are made anew in the backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kernel: torch.Tensor, causal: bool) -> torch.Tensor:
        ctx.save_for_backward(x, kernel)
        ctx.causal = causal
        return _forward(x, kernel, causal)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, kernel = ctx.saved_tensors
        plan = Plan(x, tuple(kernel.shape[1:]), ctx.causal)
        need_x, need_kernel = ctx.needs_input_grad[:2]
        dx = torch.empty_like(x) if need_x else None
        dk = torch.empty_like(kernel) if need_kernel else None
        zeros = dict.fromkeys(plan.axes, 0)
        for c in plan.groups:
            spectrum = plan.transform(torch.nn.functional.pad(grad[:, c], plan.front))
            if dx is not None:
                dx[:, c] = plan.back(spectrum * plan.transform(kernel[c]).conj(), zeros, plan.grid)
            if dk is not None:
                both = (spectrum * plan.transform(x[:, c]).conj()).sum(0)
                dk[c] = plan.back(plan.sum_unused(both), zeros, plan.taps)
        return dx, dk, None
