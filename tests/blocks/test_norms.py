"""Norms of any size."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn as nn

from monai_ext.blocks.norms import AnySizeInstanceNorm2d, AnySizeInstanceNorm3d, allow_tiny_maps


@pytest.mark.parametrize("cls", [nn.InstanceNorm2d, nn.InstanceNorm3d])
@pytest.mark.parametrize("options", [{}, {"affine": True, "eps": 1e-2}, {"track_running_stats": True}], ids=str)
def test_allow_tiny_maps(cls: type[nn.Module], options: dict) -> None:
    dims = 2 if cls is nn.InstanceNorm2d else 3
    plain = nn.Sequential(nn.Identity(), nn.ModuleDict({"norm": cls(3, **options)}))
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    net = copy.deepcopy(plain)
    assert allow_tiny_maps(net) is net
    norm = net[1]["norm"]
    assert (
        type(norm) in (AnySizeInstanceNorm2d, AnySizeInstanceNorm3d)
        and norm.extra_repr() == plain[1]["norm"].extra_repr()
    )
    assert net.state_dict().keys() == plain.state_dict().keys()
    for size in ((3,) * dims, (1,) * (dims - 1) + (2,)):
        x = torch.randn(2, 3, *size)
        assert torch.equal(norm(x), plain[1]["norm"](x))
    voxel = torch.randn(1, 3, *(1,) * dims)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        plain[1]["norm"](voxel)
    assert torch.equal(norm(voxel), voxel)


def test_other_norms_stay() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.GroupNorm(1, 3), nn.LayerNorm(3))
    kept = list(net)
    assert list(allow_tiny_maps(net)) == kept


@pytest.mark.parametrize("cls", [nn.BatchNorm2d, nn.BatchNorm3d])
def test_batch_norm_of_one_value(cls: type[nn.Module]) -> None:
    dims = 2 if cls is nn.BatchNorm2d else 3
    plain = nn.Sequential(cls(3, eps=1e-2))
    for tensor in (plain[0].weight.data, plain[0].bias.data, plain[0].running_mean):
        nn.init.normal_(tensor)
    net = allow_tiny_maps(copy.deepcopy(plain))
    x, voxel = torch.randn(2, 3, *(2,) * dims), torch.randn(1, 3, *(1,) * dims)
    with pytest.raises(ValueError, match="more than 1 value"):
        plain(voxel)
    assert torch.equal(net(voxel), plain.eval()(voxel))
    assert torch.equal(net(x), plain.train()(x)), "what was alone left no trace in the statistics"
    assert torch.equal(net.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("dims", [2, 3])
def test_group_norm_of_one_channel_a_group(dims: int) -> None:
    """An instance norm by another name."""
    plain = nn.Sequential(nn.GroupNorm(3, 3, eps=1e-2))
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    net = allow_tiny_maps(copy.deepcopy(plain))
    x, voxel = torch.randn(1, 3, *(2,) * dims), torch.randn(1, 3, *(1,) * dims)
    with pytest.raises(ValueError, match="more than 1 value"):
        plain(voxel)
    assert torch.equal(net(voxel), voxel) and torch.equal(net(x), plain(x))
    assert net.state_dict().keys() == plain.state_dict().keys()
