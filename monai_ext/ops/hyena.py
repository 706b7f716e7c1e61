"""The Hyena operator over a sequence (Poli et al., "Hyena Hierarchy", arXiv 2302.10866, 2023).

Legend: B batch, C channels, N tokens, O gates (the order of the operator), K taps of a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from monai_ext.ops.implicit_convolution import ImplicitKernel, implicit_convolution
from monai_ext.ops.long_convolution import long_convolution, long_convolution_plain


def hyena_plain(
    gates: Sequence[torch.Tensor], v: torch.Tensor, kernels: torch.Tensor, skip: torch.Tensor, causal: bool = False
) -> torch.Tensor:
    """The definition with direct sums."""
    return _recurrence(_beside_skip(long_convolution_plain), gates, v, kernels, skip, causal)


def hyena(
    gates: Sequence[torch.Tensor],
    v: torch.Tensor,
    kernels: torch.Tensor | Sequence[ImplicitKernel],
    skip: torch.Tensor,
    causal: bool = False,
) -> torch.Tensor:
    """A recurrence of gates and long convolutions, of order O = 2 as a rule.

    ``v <- kernel_i (*) (gate_i * v) + skip_i * gate_i * v`` for i = 1 .. O - 1, then ``gate_O * v``. O(O C N log N)
    time (see ``monai_ext.ops.long_convolution``); the innermost gate comes first.

    Args:
        gates: O tensors (B, C, N), O at least 2.
        v: what is convolved (B, C, N).
        kernels: (O - 1, C, K) with the offsets -(N - 1) .. N - 1, when causal 0 .. N - 1; or O - 1 implicit ones.
        skip: weights (O - 1, C) of the way past each convolution.
        causal: whether the kernels hold no negative offsets.

    Returns:
        (B, C, N)

    Raises:
        ValueError: for tensors whose shapes do not fit each other.
    """
    if len(gates) < 2 or v.ndim != 3 or any(g.shape != v.shape for g in gates):
        raise ValueError(
            f"hyena takes two gates or more of the shape (B, C, N) of v, got {[tuple(g.shape) for g in gates]} and "
            f"{tuple(v.shape)}."
        )
    expected = (len(gates) - 1, v.shape[1])
    if isinstance(kernels, torch.Tensor):
        shape = tuple(kernels.shape) if kernels.ndim == 3 else (0, 0)
    else:
        shape = (len(kernels), *{len(kernel.weight) for kernel in kernels})
    if tuple(skip.shape) != expected or shape[:2] != expected:
        raise ValueError(
            f"kernels and skip must begin with (O - 1, C) = {expected}, got {shape} and {tuple(skip.shape)}."
        )
    step = _beside_skip(long_convolution) if isinstance(kernels, torch.Tensor) else implicit_convolution
    return _recurrence(step, gates, v, kernels, skip, causal)


def _recurrence(
    step: Callable[..., torch.Tensor],
    gates: Sequence[torch.Tensor],
    v: torch.Tensor,
    kernels: torch.Tensor | Sequence[ImplicitKernel],
    skip: torch.Tensor,
    causal: bool,
) -> torch.Tensor:
    for gate, kernel, d in zip(gates, kernels, skip):
        v = step(gate * v, kernel, d, causal)
    return gates[-1] * v


def _beside_skip(convolution: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A convolution by a kernel that is there, with the way past it."""

    def step(v: torch.Tensor, kernel: torch.Tensor, d: torch.Tensor, causal: bool) -> torch.Tensor:
        return torch.addcmul(convolution(v, kernel, causal), v, d.to(v.dtype).unsqueeze(-1))

    return step
