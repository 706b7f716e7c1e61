"""L2ViT's convolutions against sums over neighbours in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn as nn

from monai_ext.blocks.local_concentration import ConditionalPositions, LocalConcentration

GRIDS = [(5, 3), (1, 7), (1, 1), (9, 8), (3, 2, 5), (1, 4, 1)]
CLASSES = [LocalConcentration, ConditionalPositions]


def convolve(conv: nn.Module, x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """A depthwise convolution of tokens (B, N, C), tap by tap."""
    half = conv.weight.shape[-1] // 2
    points = list(itertools.product(*map(range, grid)))
    number = {point: n for n, point in enumerate(points)}
    out = []
    for point in points:
        total = conv.bias.expand(x.shape[0], -1)
        for tap in itertools.product(range(2 * half + 1), repeat=len(grid)):
            source = number.get(tuple(p + t - half for p, t in zip(point, tap)))
            if source is not None:
                total = total + conv.weight[(slice(None), 0, *tap)] * x[:, source]
        out.append(total)
    return torch.stack(out, 1)


def reference(module: nn.Module, x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    if isinstance(module, ConditionalPositions):
        return x + convolve(module.proj, x, grid)
    y = convolve(module.conv1, x, grid)
    y = y * (1 + torch.erf(y / 2**0.5)) / 2
    bn, tokens = module.bn, y.flatten(0, 1)
    mean, var = bn.running_mean, bn.running_var
    if module.training:
        mean = tokens.mean(0)
        var = (tokens - mean).square().mean(0)
    return convolve(module.conv2, bn.weight * (y - mean) / (var + bn.eps).sqrt() + bn.bias, grid)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("cls", CLASSES)
def test_definition(cls: type[nn.Module], grid: tuple[int, ...], training: bool) -> None:
    torch.manual_seed(0)
    module = cls(4, len(grid)).double().train(training)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value += 0.3 * torch.rand_like(value)
    x = torch.randn(2, math.prod(grid), 4, dtype=torch.float64, requires_grad=True)
    inputs = [x, *module.parameters()]
    results = []
    # the reference first: the running statistics must not have moved
    for function in (lambda: reference(module, x, grid), lambda: module(x, grid)):
        out = function()
        results.append([out, *torch.autograd.grad(out.sin().sum(), inputs)])
    for wanted, found in zip(*results):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("dims", [2, 3])
def test_bf16_and_strides(cls: type[nn.Module], dims: int) -> None:
    module, grid = cls(4, dims), (5, 3, 2)[:dims]
    x = torch.randn(2, math.prod(grid), 4)
    wanted = module(x, grid)
    torch.testing.assert_close(module(x.transpose(1, 2).contiguous().transpose(1, 2), grid), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert (module(x, grid) - wanted).norm() <= 0.02 * wanted.norm()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_single_token(dims: int) -> None:
    """It has no variance: the running statistics serve in training, too, and stay."""
    module = LocalConcentration(4, dims)
    module.bn.running_mean += 0.3
    x = torch.randn(1, 1, 4)
    out = module(x, (1,) * dims)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    torch.testing.assert_close(out, module.eval()(x, (1,) * dims))


def test_names_of_the_authors() -> None:
    """Their weights load by name."""
    assert {key.split(".")[0] for key in LocalConcentration(4, 2).state_dict()} == {"conv1", "bn", "conv2"}
    assert {key.split(".")[0] for key in ConditionalPositions(4, 2).state_dict()} == {"proj"}


@pytest.mark.parametrize("cls", CLASSES)
def test_errors(cls: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="2 or 3, got 1"):
        cls(4, 1)
    with pytest.raises(ValueError, match="odd number of taps, got 4"):
        cls(4, 2, kernel_size=4)
    with pytest.raises(ValueError, match=r"15 tokens do not fill a grid of \(4, 4\) in 2D"):
        cls(4, 2)(torch.zeros(1, 15, 4), (4, 4))
    with pytest.raises(ValueError, match="in 3D"):
        cls(4, 3)(torch.zeros(1, 16, 4), (4, 4))
