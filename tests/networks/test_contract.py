"""One contract for every network, whatever mixes its tokens."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate

from monai_ext.mixers import MIXERS
from monai_ext.networks import (
    MixerSwin,
    MixerSwinUNETR,
    MixerSwinUPerNet,
    MixerUNETR,
    MixerViT,
    MixerViTUPerNet,
    ShapeSwin,
)

VIT = {"in_channels": 2, "img_size": 16, "hidden_size": 12, "mlp_dim": 16, "num_heads": 3}
UNETR = {**VIT, "out_channels": 3, "feature_size": 4}
SWIN = {"in_channels": 2, "depths": (2, 1), "num_heads": (2, 4), "window_size": 3, "feature_size": 8, "mlp_ratio": 2.0}
UPER = {"out_channels": 3, "head_channels": 6}

NETWORKS: dict[str, tuple[type[torch.nn.Module], dict[str, Any]]] = {
    "vit": (MixerViT, {**VIT, "patch_size": 8, "num_layers": 2}),
    "vit_class": (MixerViT, {**VIT, "patch_size": 8, "num_layers": 2, "classification": True, "num_classes": 3}),
    "unetr_4": (MixerUNETR, {**UNETR, "patch_size": 4, "num_layers": 2}),
    "unetr_8": (MixerUNETR, {**UNETR, "patch_size": 8, "num_layers": 3}),
    "unetr_16": (MixerUNETR, {**UNETR, "patch_size": 16, "num_layers": 4}),
    "swin": (MixerSwin, {**SWIN, "patch_norm": True}),
    "swin_class": (MixerSwin, {**SWIN, "classification": True, "num_classes": 3}),
    "swin_conv_class": (MixerSwin, {**SWIN, "classification": True, "num_classes": 3, "stem": "conv", "patch_size": 4}),
    "shape_swin_class": (ShapeSwin, {**SWIN, "num_classes": 3, "measures": {"descriptors": {"runs": 3}}}),
    "swin_unetr_v1": (MixerSwinUNETR, {**SWIN, "out_channels": 3}),
    "swin_unetr_v2": (MixerSwinUNETR, {**SWIN, "out_channels": 3, "use_v2": True, "downsample": "mergingv2"}),
    "swin_unetr_thin": (MixerSwinUNETR, {**SWIN, "out_channels": 3, "full_resolution_size": 5}),
    "vit_upernet": (MixerViTUPerNet, {**VIT, **UPER, "patch_size": 4, "num_layers": 4}),
    "vit_upernet_flat": (MixerViTUPerNet, {**VIT, **UPER, "patch_size": 6, "num_layers": 3, "pyramid": False}),
    "swin_upernet": (MixerSwinUPerNet, {**SWIN, **UPER}),
    "swin_upernet_all": (MixerSwinUPerNet, {**SWIN, **UPER, "taps": (0, 1, 2), "shared_smoothing": True}),
}
DROPOUT = {
    MixerViT: {"dropout_rate": 0.3},
    MixerUNETR: {"dropout_rate": 0.3},
    MixerSwin: {"drop_rate": 0.3, "attn_drop_rate": 0.3, "dropout_path_rate": 0.3},
    ShapeSwin: {"drop_rate": 0.3, "attn_drop_rate": 0.3, "dropout_path_rate": 0.3},
    MixerSwinUNETR: {"drop_rate": 0.3, "attn_drop_rate": 0.3, "dropout_path_rate": 0.3},
    MixerViTUPerNet: {"dropout_rate": 0.3, "head_dropout_rate": 0.3},
    MixerSwinUPerNet: {"drop_rate": 0.3, "attn_drop_rate": 0.3, "dropout_path_rate": 0.3, "head_dropout_rate": 0.3},
}
DENSE = (MixerUNETR, MixerSwinUNETR, MixerViTUPerNet, MixerSwinUPerNet)  # a map of logits of the size of the image
# no stride divides these
ODD = {2: (37, 29), 3: (19, 33, 21)}
SMALL = [(1, 1), (1, 5), (3, 2), (1, 1, 1), (2, 1, 3)]

# every network with one mixer that takes a bias and one that reads the grid, two networks with all that take any grid
PAIRS = [
    (network, mixer)
    for network, mixer in itertools.product(NETWORKS, MIXERS)
    if mixer in ("softmax", "hyena_nd")
    or (network in ("unetr_8", "swin_unetr_v2") and not MIXERS[mixer].fixed_grid and 2 in MIXERS[mixer].dims)
]
each_pair = pytest.mark.parametrize(("network", "mixer"), PAIRS, ids=lambda name: name)
each_network = pytest.mark.parametrize("network", NETWORKS)
each_dim = pytest.mark.parametrize("dims", [2, 3], ids=["2D", "3D"])


def build(network: str, mixer: Any = "softmax", dims: int = 2, seed: int = 0, **options: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    cls, defaults = NETWORKS[network]
    return cls(**{**defaults, "mixer": mixer, "spatial_dims": dims, **options})


def image(size: tuple[int, ...] = ODD[2], batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 2, *size, generator=torch.Generator().manual_seed(1))


def main_output(out: Any) -> torch.Tensor:
    """Logits or tokens of a pair with hidden states, the deepest map of a list, or the map itself."""
    if isinstance(out, tuple):
        return out[0]
    return out[-1] if isinstance(out, list) else out


def run(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return main_output(net(x))


def check_gradients(net: torch.nn.Module) -> None:
    for key, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{key} is not used"
            assert parameter.grad.isfinite().all() and parameter.grad.any(), key


@each_pair
@each_dim
def test_forward_and_backward(network: str, mixer: str, dims: int) -> None:
    """Any size, every parameter used, and an output of the size of the input where it is a map of it."""
    if dims not in MIXERS[mixer].dims:
        pytest.skip(f"{mixer} is not for {dims}D")
    net, x = build(network, mixer, dims), image(ODD[dims]).requires_grad_()
    out = run(net, x)
    if NETWORKS[network][0] in DENSE:
        assert out.shape == (2, 3, *ODD[dims])
    if network.endswith("class"):
        assert out.shape == (2, 3)
    assert out.dtype == x.dtype and out.isfinite().all()
    out.sin().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.any()
    check_gradients(net)


def test_channels_at_full_resolution() -> None:
    """Those of the first stage unless they are given; the stages keep theirs."""
    cls, options = NETWORKS["swin_unetr_v1"]
    weights = {size: cls(**options, full_resolution_size=size).state_dict() for size in (None, 8, 5)}
    shapes = {size: {key: value.shape for key, value in found.items()} for size, found in weights.items()}
    assert shapes[8] == shapes[None]
    changed = {key for key, shape in shapes[5].items() if shape != shapes[8][key]}
    assert {key.split(".conv")[0].split(".transp")[0] for key in changed} == {"encoders.0.layer", "decoders.0", "out"}


def test_shapes_of_hidden_states() -> None:
    tokens, hidden = build("vit")(image())
    assert tokens.shape == (2, 5 * 4, 12) and [h.shape for h in hidden] == [tokens.shape] * 2
    maps = build("swin")(image())
    assert [m.shape[1:] for m in maps] == [(8, 19, 15), (16, 10, 8), (32, 5, 4)]


@each_network
@pytest.mark.parametrize("mixer", ["softmax", "seqnorm"])
@pytest.mark.parametrize("size", SMALL, ids=str)
def test_tiny_images(network: str, mixer: str, size: tuple[int, ...]) -> None:
    """Smaller than a patch and than a window, down to one voxel at the bottom, in training with one image."""
    net, x = build(network, mixer, len(size)).train(), image(size, batch=1)
    out = run(net, x)
    if NETWORKS[network][0] in DENSE:
        assert out.shape[2:] == size
    assert out.isfinite().all()
    out.sin().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)


@each_network
def test_dropout_by_the_name_that_monai_label_sets(network: str) -> None:
    name = next(iter(DROPOUT[NETWORKS[network][0]]))
    x, nets = (
        image(),
        [build(network, **options) for options in ({"dropout": 0.3}, {name: 0.3}, {name: 0.7, "dropout": 0.3})],
    )
    first, *others = [seeded_run(net, x) for net in nets]
    assert all(torch.equal(first, other) for other in others)
    assert not torch.equal(first, seeded_run(build(network), x))
    with pytest.raises(ValueError, match=f"{name} must lie between 0 and 1"):
        build(network, dropout=1.2)


def seeded_run(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(2)
    return run(net, x)


@each_network
@torch.no_grad()
def test_images_of_a_batch_do_not_meet(network: str) -> None:
    net, x = build(network).eval(), image()
    torch.testing.assert_close(run(net, x)[1:], run(net, x[1:]), atol=1e-5, rtol=1e-4)


@each_pair
@torch.no_grad()
def test_dropout(network: str, mixer: str) -> None:
    """It acts in training, and not at all in evaluation."""
    net, x = build(network, mixer, **DROPOUT[NETWORKS[network][0]]), image()
    assert not torch.equal(run(net, x), run(net, x))
    net.eval()
    without = build(network, mixer).eval()
    without.load_state_dict(net.state_dict())  # running statistics have moved
    assert torch.equal(run(net, x), run(net, x))
    assert torch.equal(run(net, x), run(without, x))


@each_pair
@torch.no_grad()
def test_save_load_copy_and_pickle(network: str, mixer: str, tmp_path: Path) -> None:
    net, x = build(network, mixer).eval(), image()
    keys, size = list(net.state_dict()), len(pickle.dumps(net))
    wanted = run(net, x)
    assert list(net.state_dict()) == keys and len(pickle.dumps(net)) == size, "a forward leaves something behind"
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other = build(network, mixer, seed=1).eval()
    assert not torch.equal(run(other, x), wanted)
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True), strict=True)
    for same in (other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(run(same, x), wanted)


@each_pair
def test_activation_checkpointing(network: str, mixer: str) -> None:
    results = []
    for use in (False, True):
        net, x = build(network, mixer, use_checkpoint=use, **DROPOUT[NETWORKS[network][0]]), image().requires_grad_()
        torch.manual_seed(2)  # the recomputation draws the same dropout
        out = run(net, x)
        out.sin().sum().backward()
        results.append([out, x.grad, *(p.grad for p in net.parameters() if p.requires_grad)])
    for plain, checkpointed in zip(*results):
        torch.testing.assert_close(checkpointed, plain)


@each_pair
def test_bfloat16(network: str, mixer: str) -> None:
    net, x = build(network, mixer), image()
    wanted = run(net, x).detach()
    with torch.autocast("cpu", torch.bfloat16):
        out = run(net, x).float()
    assert (out - wanted).norm() <= 0.05 * wanted.norm()
    out.sin().sum().backward()
    check_gradients(net)


@each_network
def test_training_after_inference_mode(network: str) -> None:
    """What a network remembers of sizes can be used in training, wherever it was made."""
    net, x = build(network), image()
    with torch.inference_mode():
        net(x)
    run(net, x).sum().backward()


@pytest.mark.parametrize(
    ("network", "mixer", "wanted"),
    [
        ("swin", ["hyena_nd", "softmax"], ["hyena_nd", "hyena_nd", "softmax"]),
        ("swin_unetr_v1", [["linear", "softmax"], "sima"], ["linear", "softmax", "sima"]),
        ("unetr_4", ["sima", "softmax"], ["sima", "softmax"]),
        ("unetr_16", ["linear", "seqnorm"], ["linear", "linear", "seqnorm", "seqnorm"]),
        ("unetr_16", [["linear", "sima"], "softmax"], ["linear", "sima", "softmax", "softmax"]),
        ("swin", [{"name": "seqnorm", "scale": "sqrt_n"}, "softmax"], ["seqnorm", "seqnorm", "softmax"]),
    ],
    ids=str,
)
def test_mixers_of_stages_and_blocks(network: str, mixer: list, wanted: list[str]) -> None:
    net = build(network, mixer)
    found = [m for m in net.modules() if type(m) in MIXERS.values()]
    assert [type(m) for m in found] == [MIXERS[name] for name in wanted]
    assert all(m.scale == "sqrt_n" for m in found if hasattr(m, "scale") and "sqrt_n" in str(mixer))
    run(net, image()).sin().sum().backward()
    check_gradients(net)


@each_network
def test_relative_positions_and_shifts_only_where_scores_are(network: str) -> None:
    for name, cls in MIXERS.items():
        net = build(network, name, cls.dims[0])
        blocks = [m for m in net.modules() if hasattr(m, "relative_position")]
        assert all((block.relative_position is not None) == cls.takes_bias for block in blocks)
        assert any(block.shift for block in blocks) == (cls.takes_bias and bool(blocks))


@each_network
def test_class_token(network: str) -> None:
    """A set of tokens can have one more, a grid cannot."""
    if network != "vit_class":
        assert not hasattr(build(network), "cls_token")
        return
    assert build(network, "softmax").cls_token is not None
    assert build(network, "softmax", pool="mean").cls_token is None
    assert build(network, "hyena_nd").cls_token is None
    with pytest.raises(ValueError, match=r"hyena_nd.*use 'mean'"):
        build(network, "hyena_nd", pool="cls")


@each_network
def test_wrong_input(network: str) -> None:
    net = build(network)
    with pytest.raises(ValueError, match="in_channels=2, got 3"):
        net(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"spatial_dims=2 takes \(B, C, H, W\), got the shape \(1, 2, 8, 8, 8\)"):
        net(torch.zeros(1, 2, 8, 8, 8))


@each_network
def test_checkpoint_of_another_network(network: str) -> None:
    other = "swin" if network.startswith(("vit", "unetr")) else "vit"
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*Unexpected key") as error:
        build(network).load_state_dict(build(other).state_dict())
    assert "blocks.0.mixer.qkv.weight" in str(error.value)


@each_network
def test_unknown_mixer_and_option(network: str) -> None:
    with pytest.raises(ValueError, match="'softmx'") as error:
        build(network, "softmx")
    assert all(name in str(error.value) for name in MIXERS)
    with pytest.raises(ValueError, match=r"'seqnorm' has no option 'window'; its options: scale, eps"):
        build(network, {"name": "seqnorm", "window": 3})


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("vit", {"hidden_size": 14}, "width 14 is not divisible by num_heads 3"),
        ("vit", {"spatial_dims": 4, "img_size": (16,) * 4}, "2 or 3, got 4"),
        ("vit", {"mixer": ["softmax"] * 3}, "3 mixers do not divide num_layers 2"),
        ("vit", {"mixer": []}, "0 mixers"),
        ("vit", {"mixer": 3}, "a name, a dict with a name or a list"),
        ("vit", {"dropout_rate": 1.5}, "dropout_rate must lie between 0 and 1, got 1.5"),
        ("vit", {"img_size": 7}, r"img_size \(7, 7\) is smaller than patch_size \(8, 8\)"),
        ("vit", {"pos_embed_type": "rope"}, "unknown pos_embed_type 'rope'; known ones: learnable, sincos"),
        ("vit", {"proj_type": "mlp"}, "unknown proj_type 'mlp'; known ones: conv, perceptron"),
        ("vit_class", {"pool": "max"}, "unknown pool 'max'; known ones: auto, cls, mean"),
        ("unetr_8", {"dropout_rate": -0.1}, "dropout_rate must lie between 0 and 1, got -0.1"),
        ("unetr_8", {"patch_size": 6}, "patch_size must be 2, 4, 8, 16 .* got 6"),
        ("unetr_8", {"patch_size": 1}, "got 1"),
        ("unetr_8", {"patch_size": (8, 8)}, r"got \(8, 8\)"),
        ("unetr_8", {"num_layers": 2}, "patch_size 8 needs at least 3 layers, got num_layers 2"),
        (
            "swin",
            {"feature_size": 6},
            "width 12 is not divisible by num_heads 8",
        ),
        ("swin", {"drop_rate": 2}, "drop_rate must lie between 0 and 1, got 2"),
        ("swin", {"depths": (1, 1, 1)}, r"depths \(1, 1, 1\) and num_heads \(2, 4\) differ in length"),
        ("swin", {"depths": (2, 0)}, r"each of at least one block, got \(2, 0\)"),
        ("swin", {"depths": (), "num_heads": ()}, "at least one stage"),
        ("swin", {"mixer": ["softmax"] * 3}, "3 entries for 2 stages"),
        ("swin", {"mixer": [["softmax"] * 3, "softmax"]}, "stage 1 has 2 blocks"),
        ("swin", {"stem": "pool"}, "unknown stem 'pool'; known ones: patch, conv"),
        ("swin_class", {"stem": "conv", "patch_norm": True}, "patch_norm belongs to stem 'patch'"),
        ("swin_class", {"stem": "conv", "patch_size": (2, 4)}, r"2, 4, 8 ... along every axis, got \(2, 4\)"),
        ("swin_class", {"stem": "conv", "patch_size": 6}, r"2, 4, 8 ... along every axis, got \(6, 6\)"),
        ("swin_unetr_v1", {"attn_drop_rate": -1}, "attn_drop_rate must lie between 0 and 1, got -1"),
        ("swin_unetr_v1", {"dropout_path_rate": 1.1}, "dropout_path_rate must lie between 0 and 1, got 1.1"),
        ("swin_unetr_v1", {"downsample": "pool"}, "'pool'; known ones: merging, mergingv2, merging_before_1_5"),
        ("swin_unetr_v1", {"full_resolution_size": 0}, "full_resolution_size must be at least 1, got 0"),
        ("swin_unetr_v1", {"spatial_dims": 1}, "2 or 3, got 1"),
    ],
    ids=str,
)
def test_bad_arguments(network: str, options: dict, message: str) -> None:
    if "feature_size" in options:
        options = {**options, "num_heads": (2, 8)}
    cls, defaults = NETWORKS[network]
    with pytest.raises(ValueError, match=message):
        cls(**{"spatial_dims": 2, **defaults, **options})


@each_network
@each_dim
def test_metadata_goes_around_the_network(network: str, dims: int) -> None:
    """A collated batch of MetaTensors gives what a plain one gives, and keeps each image's metadata."""
    net = build(network, dims=dims)
    images = [torch.randn(2, *ODD[dims]) for _ in range(3)]
    batch = list_data_collate([MetaTensor(image, meta={"name": str(i)}) for i, image in enumerate(images)])
    inside = []
    for module in net.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, args, out: inside.extend(map(type, [*args, out])))
    results, plain = net(batch), net(torch.stack(images))
    assert MetaTensor not in inside
    for result, expected in zip(_flat(results), _flat(plain), strict=True):
        assert isinstance(result, MetaTensor) and result.is_batch and not isinstance(expected, MetaTensor)
        assert [item.meta["name"] for item in decollate_batch(result)] == ["0", "1", "2"]
        torch.testing.assert_close(result.as_tensor(), expected)
    sum(result.sin().sum() for result in _flat(results)).backward()
    assert all(p.grad is not None for p in net.parameters())


def _flat(results: Any) -> list[torch.Tensor]:
    if isinstance(results, torch.Tensor):
        return [results]
    return [tensor for result in results for tensor in _flat(result)]
