"""The small network of sines against its definition."""

from __future__ import annotations

import pytest
import torch

from monai_ext.ops import sine_network as module
from monai_ext.ops.sine_network import sine_network, sine_network_plain


def tensors(layers: int, with_freqs: bool, positions: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [5, *[7] * layers]
    shapes = [(5, positions), *zip(sizes[1:], sizes), *[(7,)] * layers, *[(layers, 7)] * with_freqs]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


@pytest.mark.parametrize("with_freqs", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("positions", [1, 23])
def test_against_the_definition(layers: int, with_freqs: bool, positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_CPU", 60)  # several blocks, the last a short one
    z, *parts = tensors(layers, with_freqs, positions)
    freqs = parts[-1] if with_freqs else None
    out, wanted = (f(z, parts[:layers], parts[layers : 2 * layers], freqs) for f in (sine_network, sine_network_plain))
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(out)
    for fast, plain in zip(*(torch.autograd.grad(y, [z, *parts], grad) for y in (out, wanted))):
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(sine_network(z, parts[:layers], parts[layers : 2 * layers], freqs), wanted)


def test_a_shared_frequency_and_fixed_features() -> None:
    """One row for every layer gets the sum of its gradients; features that are no parameter get none."""
    z, *parts = tensors(3, True, 23)
    z, freq = z.detach(), parts[6][:1]
    grads = []
    for f in (sine_network, sine_network_plain):
        out = f(z, parts[:3], parts[3:6], freq.expand(3, -1))
        grads.append(torch.autograd.grad(out.square().sum(), [*parts[:6], freq]))
    for fast, plain in zip(*grads):
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)


def test_shapes() -> None:
    z, *parts = tensors(2, True, 4)
    with pytest.raises(ValueError, match="do not lead from features"):
        sine_network(z[:4], parts[:2], parts[2:4])
    with pytest.raises(ValueError, match="do not lead from features"):
        sine_network(z, parts[:2], parts[2:4], parts[4][:1])
    with pytest.raises(ValueError, match="do not lead from features"):
        sine_network(z, [], [])
