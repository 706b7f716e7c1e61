"""Gradients of convolutions under autocast: PyTorch 2.13 has wrong ones on a CPU for maps that are not contiguous."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn as nn

from monai_ext.blocks.local_concentration import ConditionalPositions, LocalConcentration
from monai_ext.mixers import build_mixer


def build(name: str) -> nn.Module:
    options = {"vil": {"conv_kernel": 5}, "cross_scan": {"d_conv": 5}}
    blocks = {"local_concentration": LocalConcentration, "conditional_positions": ConditionalPositions}
    if name in blocks:
        return blocks[name](12, 3, kernel_size=7)
    return build_mixer({"name": name, **options[name]}, 12, 3, 3)


@pytest.mark.parametrize("grid", [(3, 1, 5), (4, 4, 4), (6, 1, 7)], ids=str)
@pytest.mark.parametrize("name", ["vil", "cross_scan", "local_concentration", "conditional_positions"])
def test_close_to_float32(name: str, grid: tuple[int, ...]) -> None:
    module = build(name)
    x = torch.randn(2, math.prod(grid), 12)
    low = copy.deepcopy(module)
    module(x, grid).sin().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        out = low(x, grid)
    out.float().sin().sum().backward()
    largest = max(p.grad.norm() for p in module.parameters())
    for (key, a), b in zip(low.named_parameters(), module.parameters()):
        # vanishing ones against the largest
        assert (a.grad - b.grad).norm() <= 0.05 * max(b.grad.norm(), 0.05 * largest), key
