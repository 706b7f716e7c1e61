"""Every mixer in every kind of network: what fits learns, what does not says why."""

from __future__ import annotations

import itertools

import pytest
import torch

from monai_ext.mixers import MIXERS
from monai_ext.networks import MixerSwinUNETR, MixerUNETR, MixerViT

VIT = {"in_channels": 1, "img_size": 24, "hidden_size": 12, "mlp_dim": 16, "num_heads": 3, "patch_size": 8}
NETWORKS = {
    "vit": (MixerViT, {**VIT, "num_layers": 2, "classification": True, "num_classes": 2, "post_activation": None}),
    "unetr": (MixerUNETR, {**VIT, "num_layers": 3, "out_channels": 2, "feature_size": 4}),
    "swin_unetr": (
        MixerSwinUNETR,
        {"in_channels": 1, "out_channels": 2, "depths": (2,), "num_heads": (3,), "window_size": 4, "feature_size": 12},
    ),
}


def build(network: str, mixer: str, dims: int, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    cls, defaults = NETWORKS[network]
    return cls(**{**defaults, "mixer": mixer, "spatial_dims": dims, **options})


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("mixer", "dims"), [(name, dims) for name, dims in itertools.product(MIXERS, (2, 3))], ids=str)
def test_learns_or_refuses(network: str, mixer: str, dims: int) -> None:
    if dims not in MIXERS[mixer].dims:
        with pytest.raises(ValueError, match=f"not of {dims}: choose another mixer"):
            build(network, mixer, dims)
        return
    net = build(network, mixer, dims)
    rng = torch.Generator().manual_seed(0)
    size = (24,) * dims
    x = torch.randn(2, 1, *size, generator=rng)
    x[1, :, : size[0] // 2] += 2
    target = torch.tensor([0, 1]) if network == "vit" else (x[:, 0] > 1).long()
    # without decay a parameter moves by its gradient alone
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=0)
    mixers = [module for module in net.modules() if type(module) in MIXERS.values()]
    before = [parameter.clone() for module in mixers for parameter in module.parameters()]
    losses = []
    for _ in range(6):
        out = net(x)
        loss = torch.nn.functional.cross_entropy(out[0] if network == "vit" else out, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses
    after = [parameter for module in mixers for parameter in module.parameters()]
    assert mixers and all(not torch.equal(a, b) for a, b in zip(before, after)), "the mixers have not learnt"


@pytest.mark.parametrize("mixer", [name for name, cls in MIXERS.items() if cls.fixed_grid])
def test_fixed_grids(mixer: str) -> None:
    """Such a mixer serves the one size for which a ViT was made, and in a Swin every size: windows are padded."""
    dims = MIXERS[mixer].dims[0]
    x = torch.randn(1, 1, *(20,) * dims)
    with pytest.raises(ValueError, match=r"belong to a grid of \(3, 3.* got \(2, 2|belong to a grid .* got \(3, 4"):
        build("vit", mixer, dims)(torch.randn(1, 1, *(24, 32, 24)[:dims]))
    net = build("swin_unetr", mixer, dims).eval()
    with torch.no_grad():
        assert net(x).shape[2:] == x.shape[2:]
        assert net(x[:, :, :4, :5]).isfinite().all()


@pytest.mark.parametrize("dims", [2, 3], ids=["2D", "3D"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "block",
    [
        {"mlp": "kan"},
        {"conditional_position": True},
        {"local_concentration": True, "conditional_position": 2},
        {"layer_scale": 0.1},
    ],
    ids=str,
)
def test_parts_of_blocks(network: str, block: dict, dims: int) -> None:
    options = {"pool": "mean"} if network == "vit" else {}
    net, plain = (build(network, "relu_linear", dims, block=b, **options) for b in (block, None))
    x = torch.randn(2, 1, *(24,) * dims)
    out = net(x)[0] if network == "vit" else net(x)
    out.sin().sum().backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), key
    assert set(net.state_dict()) != set(plain.state_dict())
    assert all(getattr(m, "position", None) is None for m in plain.modules())


def test_unknown_parts_of_blocks() -> None:
    with pytest.raises(ValueError, match=r"no option 'mpl'; its options: mlp, conditional_position, local_conc"):
        build("vit", "softmax", 2, block={"mpl": "kan"})
    with pytest.raises(ValueError, match=r"unknown mlp 'kann'; known ones: mlp, kan"):
        build("unetr", "softmax", 2, block={"mlp": "kann"})
    with pytest.raises(ValueError, match="conditional_position must be 0, 1 or 2, got 3"):
        build("swin_unetr", "softmax", 2, block={"conditional_position": 3})
    for scale in ("small", float("nan"), True):
        with pytest.raises(ValueError, match="layer_scale must be a number or null"):
            build("vit", "softmax", 2, block={"layer_scale": scale})


@pytest.mark.parametrize("network", ["vit", "unetr"])
@pytest.mark.parametrize("mixer", ["softmax", "seqnorm"])
def test_registers(network: str, mixer: str) -> None:
    """They take part, and nothing of them comes out."""
    net, plain = build(network, mixer, 2, num_registers=3), build(network, mixer, 2)
    x = torch.randn(2, 1, 24, 24)
    missing = net.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert [key.removeprefix("vit.") for key in missing] == ["registers"]
    out, without = net(x), plain(x)
    if network == "vit":
        assert [h.shape for h in out[1]] == [h.shape for h in without[1]]
        out, without = out[0], without[0]
    assert out.shape == without.shape and not torch.allclose(out, without)
    out.sin().sum().backward()
    registers = dict(net.named_parameters())[missing[0]]
    assert registers.grad.any()


@pytest.mark.parametrize(
    ("mixer", "options", "message"),
    [
        ("hyena_nd", {"num_registers": 2}, "num_registers 2: registers are tokens outside of the grid"),
        ("softmax", {"num_registers": 2, "block": {"conditional_position": True}}, "or the block reads: use 0"),
        ("softmax", {"num_registers": -1}, "cannot be below 0"),
        ("softmax", {"pool": "cls", "block": {"local_concentration": True}}, "or the block reads: use 'mean'"),
    ],
)
def test_no_further_tokens_on_a_grid(mixer: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("vit", mixer, 2, **options)


def test_state_space_first_and_attention_last() -> None:
    """The pattern of MambaVision's stages, from one list."""
    mixer = [[{"name": "mambavision"}, "softmax"], "softmax"]
    net = build("swin_unetr", mixer, 2, depths=(2, 2), num_heads=(3, 3))
    found = [type(m).__name__ for m in net.modules() if type(m) in MIXERS.values()]
    assert found == ["MambaVisionMixer", "SoftmaxMixer", "SoftmaxMixer", "SoftmaxMixer"]
    net(torch.randn(1, 1, 24, 24)).sum().backward()


def test_directions_alternate_among_themselves() -> None:
    """Where other mixers stand between, and over the stages of a Swin."""
    vit = build("vit", ["vil", "softmax", "vil", "softmax"], 2, num_layers=4)
    assert [block.mixer.direction for block in vit.blocks[::2]] == ["forward", "backward"]
    swin = build("swin_unetr", [["softmax", "vil"], ["vil", "vil"]], 2, depths=(2, 2), num_heads=(3, 3))
    found = [m.direction for m in swin.modules() if type(m) is MIXERS["vil"]]
    assert found == ["forward", "backward", "forward"]


@pytest.mark.parametrize("network", NETWORKS)
def test_checkpointing_counts_a_batch_once(network: str) -> None:
    """Running statistics are those of one forward, whether or not a second one runs in the backward."""
    states = []
    for use in (False, True):
        net = build(network, "cvt", 2, use_checkpoint=use, **({"norm_name": "batch"} if network != "vit" else {}))
        torch.manual_seed(1)
        out = net(torch.randn(2, 1, 24, 24))
        (out[0] if network == "vit" else out).sin().sum().backward()
        states.append({key: value for key, value in net.state_dict().items() if "running" in key or "tracked" in key})
    assert states[0] and all(torch.equal(states[0][key], states[1][key]) for key in states[0])
