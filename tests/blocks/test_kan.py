"""The KAN feed-forward network against sums over bumps in float64."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.blocks.kan import KANMLP
from monai_ext.ops import kan
from monai_ext.ops.kan import kan_linear, kan_linear_plain
from tests.ops.compare import assert_same, leaves

CENTRES = [-2 + 4 * g / 7 for g in range(8)]


def reference(mlp: KANMLP, x: torch.Tensor) -> torch.Tensor:
    for layer in mlp.layers:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm.weight + layer.norm.bias
        outputs = []
        for row in layer.linear.weight:
            functions = row.view(-1, 8)
            total = 0
            for c in range(x.shape[-1]):
                for g, centre in enumerate(CENTRES):
                    total = total + functions[c, g] / torch.cosh((x[..., c] - centre) / 0.33) ** 2
            outputs.append(total)
        x = torch.stack(outputs, -1)
    return x


@pytest.mark.parametrize("shape", [(2, 15, 4), (3, 4), (1, 2, 3, 2, 4)], ids=str)
def test_definition(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(kan, "BLOCK_CPU", 7 * 32)
    mlp = KANMLP(4, 6).double()
    for layer in mlp.layers:
        layer.grid.copy_(torch.tensor(CENTRES, dtype=torch.float64))  # linspace in float32
        for parameter in (layer.norm.weight, layer.norm.bias):
            parameter.data += 0.3 * torch.randn_like(parameter)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    inputs = [x, *mlp.parameters()]
    results = []
    for function in (mlp, lambda x: reference(mlp, x)):
        out = function(x)
        assert out.shape == x.shape
        results.append([out, *torch.autograd.grad(out.sin().sum(), inputs)])
    for found, wanted in zip(*results):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), results[1][0])


@pytest.mark.parametrize("block", [1, 5 * 12, 2**20])
def test_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kan, "BLOCK_CPU", block)
    centres = torch.linspace(-1, 1, 4, dtype=torch.float64)
    fast, plain = (lambda *t, op=op: op(*t, centres, 0.5) for op in (kan_linear, kan_linear_plain))
    assert_same(fast, plain, leaves((2, 11, 3), (5, 12)))


def test_keeps_no_bumps() -> None:
    mlp, x = KANMLP(16, 32), torch.randn(1, 500, 16, requires_grad=True)
    sizes = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = mlp(x)
    small = 4 * (2 * 8 * 16 * 32 + 5 * 500)
    # for both layers their input and its normalised copy
    assert out.requires_grad and sum(sizes.values()) <= 2 * 4 * 500 * (16 + 32) + small


@pytest.mark.parametrize("how", ["module", "autocast"])
def test_bf16(how: str) -> None:
    torch.manual_seed(0)
    mlp, x = KANMLP(16, 32), torch.randn(2, 50, 16)
    wanted = mlp(x)
    if how == "module":
        out = mlp.bfloat16()(x.bfloat16())
    else:
        with torch.autocast("cpu", torch.bfloat16):
            out = mlp(x)
    assert out.dtype == torch.bfloat16
    # bumps are steep: rounding of what comes out of the norm is magnified
    assert (out - wanted).norm() <= (0.03 if how == "autocast" else 0.06) * wanted.norm()
    out.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in mlp.parameters())


def test_size_of_the_output() -> None:
    """As large as the input, so that it may stand where a linear map did."""
    torch.manual_seed(0)
    assert 0.1 < KANMLP(64, 128)(torch.randn(1, 200, 64)).std() < 2


def test_dropout() -> None:
    torch.manual_seed(0)
    mlp, x = KANMLP(8, 16, dropout_rate=0.5), torch.randn(1, 50, 8)
    assert (mlp(x) == 0).float().mean() == pytest.approx(0.5, abs=0.15)
    assert torch.equal(mlp.eval()(x), mlp(x)) and (mlp(x) != 0).all()


def test_compiles_and_traces() -> None:
    mlp, x = KANMLP(4, 6), torch.randn(2, 15, 4)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(mlp, fullgraph=True, backend="eager")(x), mlp(x))
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(mlp, x)(x), mlp(x))


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least 1, got 4 and 0"):
        KANMLP(4, 0)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        KANMLP(4, 4, dropout_rate=1.5)
    with pytest.raises(ValueError, match=r"\(E, 12\), got \(5, 13\)"):
        kan_linear(torch.zeros(2, 3), torch.zeros(5, 13), torch.zeros(4), math.pi)
