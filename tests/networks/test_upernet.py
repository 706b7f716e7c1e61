"""UPerNet: how backbone, head and image fit together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from monai_ext.mixers import MIXERS
from monai_ext.networks import MixerSwin, MixerSwinUPerNet, MixerViT, MixerViTUPerNet
from tests.blocks import uper_reference as plain

VIT = {"in_channels": 1, "out_channels": 2, "img_size": 16, "hidden_size": 12, "mlp_dim": 16, "num_heads": 3}
VIT |= {"num_layers": 4, "patch_size": 4, "head_channels": 6}
SWIN = {"in_channels": 1, "out_channels": 2, "depths": (2, 1), "num_heads": (2, 4), "window_size": 3}
SWIN |= {"feature_size": 8, "head_channels": 6}


def build(cls: type[torch.nn.Module], dims: int = 2, **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return cls(**{**(VIT if cls is MixerViTUPerNet else SWIN), "spatial_dims": dims, **options})


def part(net: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    return dict(net.get_submodule(name).named_parameters())


def padded(x: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    behind = [place for have, want in zip(reversed(x.shape[2:]), reversed(size)) for place in (0, want - have)]
    return F.pad(x, behind, mode="replicate")


def check(net: torch.nn.Module, x: torch.Tensor, maps: list[torch.Tensor], size: tuple[int, ...], **options: Any):
    """The network against the plain head on ``maps``, at the padded size and cut: outputs and all gradients."""
    wanted = plain.resize(plain.head(maps, part(net, "head"), **options), size)
    wanted = wanted[(..., *(slice(0, n) for n in x.shape[2:]))]
    out, parameters = net(x), list(net.parameters())
    assert out.shape == (len(x), 2, *x.shape[2:])
    torch.testing.assert_close(out, wanted, rtol=1e-9, atol=1e-9)
    for found, expected in zip(
        torch.autograd.grad(out.sin().sum(), parameters), torch.autograd.grad(wanted.sin().sum(), parameters)
    ):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("pyramid", [True, False])
@pytest.mark.parametrize(
    ("size", "patch", "grid"), [((13, 18), 4, (4, 5)), ((9, 13, 6), (4, 7, 5), (3, 2, 2))], ids=["2D", "3D"]
)
def test_vit_definition(size: tuple[int, ...], patch: Any, grid: tuple[int, ...], pyramid: bool) -> None:
    """Maps of blocks 0, 1, 2 as they are and of the last behind the norm; an image that the patches do not divide."""
    net = build(MixerViTUPerNet, len(size), patch_size=patch, pyramid=pyramid, pool_sizes=(1, 2, 4, 6)).double()
    x = torch.randn(2, 1, *size, dtype=torch.float64)
    whole = tuple(n * p for n, p in zip(grid, net.patch_size))
    tokens, hidden, found = net.vit.forward_tokens(padded(x, whole))
    assert found == grid and net.taps == [0, 1, 2, 3]
    tokens = F.layer_norm(tokens, [12], net.vit.norm.weight, net.vit.norm.bias)
    maps = [t.mT.reshape(2, 12, *grid) for t in [*hidden[:3], tokens]]
    if pyramid:
        maps = plain.pyramid_of_four(maps, part(net, "pyramid"))
    check(net, x, maps, whole, pool_sizes=(1, 2, 4, 6))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("taps", [None, (0, 1, 2), (-3, -1)])
@pytest.mark.parametrize(
    ("size", "patch", "whole"), [((13, 18), 2, (16, 24)), ((9, 4, 6), (3, 1, 2), (12, 4, 8))], ids=["2D", "3D"]
)
def test_swin_definition(size: tuple[int, ...], patch: Any, whole: tuple[int, ...], taps: Any, shared: bool) -> None:
    net = build(MixerSwinUPerNet, len(size), patch_size=patch, taps=taps, shared_smoothing=shared).double()
    x = torch.randn(2, 1, *size, dtype=torch.float64)
    maps = net.swin(padded(x, whole))
    assert [m.shape[1] for m in maps] == [8, 16, 32]
    check(net, x, [maps[i] for i in {None: (1, 2), (-3, -1): (0, 2)}.get(taps, taps)], whole, shared=shared)


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [(12, [3, 6, 9, 11]), (4, [0, 1, 2, 3]), (6, [2, 3, 4, 5]), (24, [6, 12, 18, 23]), (2, [0, 0, 0, 1]), (1, [0] * 4)],
)
def test_default_taps(layers: int, wanted: list[int]) -> None:
    """Of 12 blocks the 4th, 7th, 10th and last, as in the study; few blocks serve for several maps."""
    net = build(MixerViTUPerNet, num_layers=layers)
    assert net.taps == wanted
    net(torch.randn(1, 1, 9, 9)).sin().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_maps_of_the_study() -> None:
    """The last four of the five maps of a Swin with four stages."""
    net = build(MixerSwinUPerNet, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), patch_size=1)
    assert net.taps == [1, 2, 3, 4] and net.head.in_channels == (16, 32, 64, 128)
    study = build(MixerViTUPerNet, num_layers=12, pyramid=False, pool_sizes=(1, 2, 4, 6), shared_smoothing=True)
    assert study.head.in_channels == (12,) * 4 and len(study.head.smoothing) == 1
    assert not any("pyramid" in key for key in study.state_dict())


@pytest.mark.parametrize("taps", [(1, 3), (-1,), (0, 1, 1, 2, 3)], ids=str)
@pytest.mark.parametrize("pyramid", [True, False])
def test_other_taps(taps: tuple[int, ...], pyramid: bool) -> None:
    net, x = build(MixerViTUPerNet, taps=taps, pyramid=pyramid), torch.randn(2, 1, 13, 10)
    out = net(x)
    assert out.shape == (2, 2, 13, 10)
    out.sin().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("cls", [MixerViTUPerNet, MixerSwinUPerNet])
@torch.no_grad()
def test_padding_lies_behind_the_image(cls: type[torch.nn.Module]) -> None:
    """What fills the last patches is cut off the output again, and nothing else moves."""
    net = build(cls, img_size=32) if cls is MixerViTUPerNet else build(cls)
    net.eval()
    x = torch.zeros(1, 1, 32, 32)
    x[..., 8:16, 8:16] = 1  # the padding repeats zeros, so that both images become the same
    out, cut = net(x), net(x[..., :30, :29])
    torch.testing.assert_close(cut, out[..., :30, :29], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cls", [MixerViTUPerNet, MixerSwinUPerNet])
@pytest.mark.parametrize("dims", [2, 3])
def test_it_learns(cls: type[torch.nn.Module], dims: int) -> None:
    net = build(cls, dims, mixer="seqnorm")
    x = torch.randn(2, 1, *(16,) * dims, generator=torch.Generator().manual_seed(1))
    x[1, :, :8] += 2
    target = torch.zeros(2, *(16,) * dims, dtype=torch.long)
    target[1, :8] = 1
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], losses


def test_mixers_by_list() -> None:
    vit = build(MixerViTUPerNet, mixer=["linear", {"name": "seqnorm", "scale": "sqrt_n"}])
    swin = build(MixerSwinUPerNet, mixer=[["hyena_nd", "softmax"], "sima"])
    for net, names in ((vit, ["linear"] * 2 + ["seqnorm"] * 2), (swin, ["hyena_nd", "softmax", "sima"])):
        assert [type(m) for m in net.modules() if type(m) in MIXERS.values()] == [MIXERS[name] for name in names]
        net(torch.randn(1, 1, 16, 16)).sin().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def test_it_takes_the_weights_of_its_backbone() -> None:
    vit = MixerViT(1, 16, 4, 12, 16, 4, 3, spatial_dims=2)
    build(MixerViTUPerNet).vit.load_state_dict(vit.state_dict(), strict=True)
    swin = MixerSwin(1, depths=(2, 1), num_heads=(2, 4), window_size=3, feature_size=8, spatial_dims=2)
    build(MixerSwinUPerNet).swin.load_state_dict(swin.state_dict(), strict=True)


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (MixerViTUPerNet, {"taps": (0, 2)}, r"taps must name blocks from 0 to 3 .* got \[0, 2\]"),
        (MixerViTUPerNet, {"taps": (2, 1, 3)}, r"ascending order .* got \[2, 1, 3\]"),
        (MixerViTUPerNet, {"taps": (1, 4)}, r"from 0 to 3 .* got \[1, 4\]"),
        (MixerViTUPerNet, {"taps": (-5, -1)}, r"got \[-5, -1\]"),
        (MixerViTUPerNet, {"taps": ()}, r"got \[\]"),
        (MixerViTUPerNet, {"head_channels": 0}, "channels must be at least 1, got 0"),
        (MixerViTUPerNet, {"dropout_rate": 2}, "dropout_rate must lie between 0 and 1, got 2"),
        (MixerViTUPerNet, {"head_dropout_rate": -1}, "dropout_rate must lie between 0 and 1, got -1"),
        (MixerViTUPerNet, {"mixer": "hyena_nd", "num_registers": 2}, "num_registers 2: registers are tokens outside"),
        (MixerSwinUPerNet, {"taps": (0, 1)}, r"taps must name maps from 0 to 2 .* got \[0, 1\]"),
        (MixerSwinUPerNet, {"pool_sizes": ()}, "pool_sizes must name at least one"),
        (MixerSwinUPerNet, {"depths": (2,)}, r"depths \(2,\) and num_heads \(2, 4\) differ in length"),
        (MixerSwinUPerNet, {"downsample": "pool"}, "unknown downsample 'pool'"),
    ],
    ids=str,
)
def test_bad_arguments(cls: type[torch.nn.Module], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(cls, **options)
