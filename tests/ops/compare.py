"""How the fast operators are held against their definitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def leaves(*shapes: Sequence[int], seed: int = 0, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Random tensors, off centre and of different scales, that take gradients."""
    rng = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(*s, generator=rng, dtype=torch.float64) for s in shapes]
    return [(t * (0.7 + 0.3 * i) + 0.4 * i).to(dtype).requires_grad_() for i, t in enumerate(drawn)]


def assert_same(fast: Callable, plain: Callable, inputs: Sequence[torch.Tensor], tol: float = 1e-10) -> None:
    """Outputs and the gradients of all inputs agree, with a random gradient of the output."""
    results = []
    for function in (fast, plain):
        out = function(*inputs)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
        results.append([out, *torch.autograd.grad(out, inputs, weights)])
    for number, (a, b) in enumerate(zip(*results)):
        where = f"gradient of input {number - 1}" if number else "output"
        torch.testing.assert_close(a, b, rtol=tol, atol=tol, msg=lambda text, where=where: f"{where}: {text}")


def assert_bf16_close(function: Callable, inputs: Sequence[torch.Tensor], tol: float = 0.02) -> None:
    """With bfloat16 inputs the output and gradients are those of float64 to rounding, relative to their size."""
    low = [t.detach().bfloat16().requires_grad_() for t in inputs]
    high = [t.detach().double().requires_grad_() for t in low]
    results = []
    for tensors in (low, high):
        out = function(*tensors)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(out.dtype)
        assert out.dtype == tensors[0].dtype
        results.append([out, *torch.autograd.grad(out, tensors, weights)])
    for a, b in zip(*results):
        assert (a.double() - b).norm() <= tol * b.norm()
