"""What blocks have beside a mixer, against plain versions in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from monai_ext.blocks.kan import KANMLP
from monai_ext.blocks.local_concentration import ConditionalPosition, LocalConcentration

GRIDS = [(5, 3), (1, 4), (3, 2, 4), (1, 1)]
each_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


def same(module: torch.nn.Module, found, wanted, x: torch.Tensor) -> None:
    results = []
    for function in (wanted, found):
        out = function()
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
        results.append([out, *torch.autograd.grad(out, [x, *module.parameters()], weights)])
    for a, b in zip(*results):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


def scattered(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module


def depthwise(conv: torch.nn.Module, x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """Token by token and tap by tap."""
    places = list(itertools.product(*map(range, grid)))
    number = {place: i for i, place in enumerate(places)}
    half = conv.kernel_size[0] // 2
    out = []
    for place in places:
        total = conv.bias.expand(len(x), -1)
        for tap in itertools.product(*map(range, conv.kernel_size)):
            source = tuple(p + t - half for p, t in zip(place, tap))
            if source in number:
                total = total + conv.weight[(slice(None), 0, *tap)] * x[:, number[source]]
        out.append(total)
    return torch.stack(out, 1)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_kan(dropout: float) -> None:
    mlp = scattered(KANMLP(3, 4, dropout).double()).eval()
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)

    def layer(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(-1, keepdim=True)
        n = (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm.weight
        n = n + layer.norm.bias
        columns = []
        for c in range(x.shape[-1]):
            for g in range(8):
                u = (n[..., c] - (-2 + g * 4 / 7)) / 0.33
                columns.append(1 - ((u.exp() - (-u).exp()) / (u.exp() + (-u).exp())) ** 2)
        return torch.stack(columns, -1) @ layer.linear.weight.T

    # the points of the grid were rounded to float32
    mlp.layers[0].points = mlp.layers[1].points = torch.linspace(-2, 2, 8, dtype=torch.float64)
    same(mlp, lambda: mlp(x), lambda: layer(mlp.layers[1], layer(mlp.layers[0], x)), x)
    if dropout:
        assert not torch.equal(mlp.train()(x), mlp(x))


@each_grid
def test_conditional_position(grid: tuple[int, ...]) -> None:
    part = ConditionalPosition(3, len(grid)).double()
    x = torch.randn(2, math.prod(grid), 3, dtype=torch.float64, requires_grad=True)
    same(part, lambda: part(x, grid), lambda: x + depthwise(part.conv, x, grid), x)


@each_grid
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("training", [True, False])
def test_local_concentration(grid: tuple[int, ...], norm: str, training: bool) -> None:
    part = scattered(LocalConcentration(3, len(grid), 3, norm).double()).train(training)
    x = torch.randn(2, math.prod(grid), 3, dtype=torch.float64, requires_grad=True)
    if norm == "batch":
        part.inner_norm.running_mean += 0.4
        part.inner_norm.running_var *= 2
        running = [part.inner_norm.running_mean.clone(), part.inner_norm.running_var.clone()]

    def plain() -> torch.Tensor:
        y = depthwise(part.conv1, part.norm(x), grid)
        y = y * 0.5 * (1 + torch.erf(y / 2**0.5))
        if norm == "batch" and not training:
            mean, var = running
        else:
            axes = (0, 1) if norm == "batch" else 1
            mean = y.mean(axes, keepdim=True)
            var = (y - mean).square().mean(axes, keepdim=True)
        y = (y - mean) / (var + 1e-5).sqrt() * part.inner_norm.weight + part.inner_norm.bias
        return depthwise(part.conv2, y, grid)

    same(part, lambda: part(x, grid), plain, x)


def test_one_token_in_training() -> None:
    part = LocalConcentration(3, 2)
    assert part(torch.randn(1, 1, 3), (1, 1)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"), [({"kernel_size": 4}, "odd, got 4"), ({"norm": "layer"}, "'batch' or 'instance'")]
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalConcentration(3, 2, **options)
