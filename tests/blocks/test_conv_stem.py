from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_ext.blocks.block_options import BlockOptions
from monai_ext.blocks.conv_stem import ConvStem
from monai_ext.blocks.mixer_block import MixerBlock, WindowMixerBlock
from monai_ext.mixers import build_mixer


@pytest.mark.parametrize(("dims", "patch"), [(2, 2), (2, 8), (3, 4)])
def test_grid_is_that_of_the_patches(dims: int, patch: int) -> None:
    stem = ConvStem(2, 16, [patch] * dims, dims)
    for size in [(17, 8, 9), (1, 3, 2), (16, 16, 16)]:
        out = stem.eval()(torch.randn(2, 2, *size[:dims]))
        assert out.shape == (2, 16, *[-(-n // patch) for n in size[:dims]])


def test_against_its_definition() -> None:
    torch.manual_seed(0)
    stem = ConvStem(3, 8, [4, 4], 2).double().train()
    for norm in (m for m in stem.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    convs = [m for m in stem.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in stem.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(convs) == len(norms) == 6  # down, and two of the residual block, twice

    def step(x: torch.Tensor, number: int, stride: int) -> torch.Tensor:
        x = F.conv2d(x, convs[number].weight, stride=stride, padding=1)
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        norm = norms[number]
        return F.relu((x - mean) / (var + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None])

    x = torch.randn(2, 3, 13, 10, dtype=torch.double)
    wanted = x
    for level in range(2):
        wanted = step(wanted, 3 * level, 2)
        wanted = wanted + step(step(wanted, 3 * level + 1, 1), 3 * level + 2, 1)
    torch.testing.assert_close(stem(x), wanted)


def test_channels_double_up_to_the_width() -> None:
    stem = ConvStem(1, 24, [8, 8, 8], 3, depth=0)
    assert [m.out_channels for m in stem.modules() if isinstance(m, nn.Conv3d)] == [6, 12, 24]


def test_errors() -> None:
    for patch in ([1, 1], [3, 3], [2, 4]):
        with pytest.raises(ValueError, match="needs a patch_size of 2, 4, 8"):
            ConvStem(1, 8, patch, 2)
    with pytest.raises(ValueError, match="halves feature_size 6 2 times"):
        ConvStem(1, 6, [8, 8], 2)
    with pytest.raises(ValueError, match="cannot be negative, got -1"):
        ConvStem(1, 8, [2, 2], 2, depth=-1)


@pytest.mark.parametrize("window", [False, True])
def test_layer_scale_weighs_the_branches(window: bool) -> None:
    """With factors of 0 a block is the identity, with factors of 1 the block without them."""
    x, grid = torch.randn(2, 20, 8), (4, 5)

    def block(scale: float | None) -> nn.Module:
        torch.manual_seed(0)
        mixer, options = build_mixer("softmax", 8, 2, 2), BlockOptions(layer_scale=scale)
        return (
            WindowMixerBlock(mixer, (4, 4), False, options=options)
            if window
            else MixerBlock(mixer, 16, options=options)
        )

    torch.testing.assert_close(block(0.0)(x, grid), x)
    torch.testing.assert_close(block(1.0)(x, grid), block(None)(x, grid))
    half = block(1.0)
    half.scale2.factor.data.mul_(0.5)
    torch.testing.assert_close(half(x, grid), (block(None)(x, grid) + _without_mlp(block(None), x, grid)) / 2)


def _without_mlp(block: nn.Module, x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    for parameter in list(block.mlp.parameters())[-2:]:
        nn.init.zeros_(parameter)
    return block(x, grid)
