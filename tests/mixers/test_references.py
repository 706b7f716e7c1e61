"""Every mixer against an independent, slow version of its definition in float64: outputs and all gradients.

``references/<name>.py`` holds ``reference(mixer, x, grid)``, which computes with the mixer's parameters what the
mixer should, written from the definition and not from the fast code, and ``OPTIONS``, the options to try.
"""

from __future__ import annotations

import functools
import importlib
import math
from types import ModuleType
from typing import Any

import pytest
import torch

from monai_ext.mixers import MIXERS, Mixer, build_mixer

GRIDS = [(5, 3), (1, 7), (4, 6), (3, 2, 5), (1, 4, 1), (2, 3, 4)]


def of(name: str) -> ModuleType:
    return importlib.import_module(f"tests.mixers.references.{name}")


CASES = [
    pytest.param(name, options, grid, id=f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}-{grid}")
    for name, cls in MIXERS.items()
    for options in of(name).OPTIONS
    for grid in GRIDS
    if len(grid) in cls.dims
]


def build(name: str, options: dict[str, Any], grid: tuple[int, ...]) -> Mixer:
    """A mixer in float64, whose parameters are moved away from zeros and ones."""
    dim, heads = getattr(of(name), "DIM", 12), getattr(of(name), "HEADS", 3)
    mixer = build_mixer({"name": name, **options}, dim, heads, len(grid), grid=grid).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return mixer


def results(function: Any, mixer: Mixer, x: torch.Tensor) -> dict[str, torch.Tensor]:
    out = function()
    parameters = dict(mixer.named_parameters())
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
    grads = torch.autograd.grad(out, [x, *parameters.values()], weights, allow_unused=True)
    found = {"output": out, **dict(zip(["gradient of x", *parameters], grads))}
    return {key: torch.zeros(()) if value is None else value.detach() for key, value in found.items()}


@pytest.mark.parametrize(("name", "options", "grid"), CASES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_reference(name: str, options: dict[str, Any], grid: tuple[int, ...], training: bool) -> None:
    mixer = build(name, options, grid).train(training)
    x = torch.randn(2, math.prod(grid), mixer.dim, dtype=torch.float64) + 0.3
    x.requires_grad_()
    # the reference first: a batch norm's running statistics must not have moved
    wanted = results(lambda: of(name).reference(mixer, x, grid), mixer, x)
    found = results(lambda: mixer(x, grid), mixer, x)
    largest = max(value.norm() for key, value in wanted.items() if key != "output")
    for key, value in wanted.items():
        # a gradient that should vanish is measured against the others
        size = value.norm() if key == "output" else max(value.norm(), 1e-3 * largest)
        assert (found[key] - value).norm() <= 1e-6 * size, key


def lift(value: torch.Tensor, shape: torch.Size, causal: bool) -> torch.Tensor:
    """A parameter for 2D in one for 3D: a further axis at the end, or a further coordinate.

    Of that axis it takes the tap that meets the token itself: the middle one, of a causal mixer the last.
    """
    out = torch.zeros(shape, dtype=value.dtype)
    if value.ndim < len(shape):
        out[..., -1 if causal else shape[-1] // 2] = value
    else:
        out[tuple(slice(size) for size in value.shape)] = value
    return out


FLAT_CASES = [
    pytest.param(name, options, id=f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}")
    for name, cls in MIXERS.items()
    if cls.dims == (2, 3) and getattr(of(name), "FLAT", True)
    for options in getattr(of(name), "FLAT_OPTIONS", of(name).OPTIONS)
]


@pytest.mark.parametrize(("name", "options"), FLAT_CASES)
def test_flat_volume_is_an_image(name: str, options: dict[str, Any]) -> None:
    """With a last axis of length 1 the 3D mixer computes what the 2D one does."""
    flat, solid = build(name, options, (5, 4)).eval(), build(name, options, (5, 4, 1)).eval()
    state = flat.state_dict()
    place = getattr(of(name), "lift", functools.partial(lift, causal=solid.causal))
    solid.load_state_dict({key: place(state[key], value.shape) for key, value in solid.state_dict().items()})
    x = torch.randn(2, 20, flat.dim, dtype=torch.float64)
    torch.testing.assert_close(solid(x, (5, 4, 1)), flat(x, (5, 4)), rtol=1e-9, atol=1e-9)
