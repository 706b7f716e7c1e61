"""With softmax attention our networks take MONAI's state dicts as they are, and compute the same."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from monai.networks.nets import UNETR, SwinUNETR, ViT
from monai.networks.nets.swin_unetr import PatchMerging, SwinTransformer
from monai.utils import ensure_tuple_rep

from monai_ext.networks import MixerSwin, MixerSwinUNETR, MixerUNETR, MixerViT

V = {"in_channels": 2, "img_size": (16, 24), "hidden_size": 12, "mlp_dim": 20, "num_heads": 3, "spatial_dims": 2}
V3 = {**V, "img_size": (8, 16, 12), "patch_size": (4, 8, 6), "num_layers": 2, "spatial_dims": 3}
V2 = {**V, "patch_size": 8, "num_layers": 2}
U = {**V, "out_channels": 3, "img_size": (16, 32), "feature_size": 4}
U3 = {**U, "img_size": (16, 32, 16), "spatial_dims": 3}
S = {
    "in_channels": 2,
    "patch_size": 2,
    "depths": (2, 2, 1, 1),
    "num_heads": (3, 3, 6, 6),
    "window_size": 3,
    "feature_size": 12,
    "mlp_ratio": 2.0,
    "spatial_dims": 2,
}
S3 = {**S, "spatial_dims": 3}
SU, SU3 = {**S, "out_channels": 3}, {**S3, "out_channels": 3, "depths": (2, 1, 1, 1), "num_heads": (2, 2, 2, 2)}

# ours, MONAI's, the arguments of both, the size of the image
CASES: dict[str, tuple[type, type, dict[str, Any], tuple[int, ...]]] = {
    "vit_2d": (MixerViT, ViT, V2, (16, 24)),
    "vit_3d": (MixerViT, ViT, V3, (8, 16, 12)),
    "vit_cut": (MixerViT, ViT, {**V2, "img_size": (17, 30)}, (17, 30)),
    "vit_tanh": (MixerViT, ViT, {**V2, "classification": True, "num_classes": 4}, (16, 24)),
    "vit_logits": (MixerViT, ViT, {**V3, "classification": True, "post_activation": None}, (8, 16, 12)),
    "vit_sincos": (MixerViT, ViT, {**V2, "pos_embed_type": "sincos"}, (16, 24)),
    "vit_fourier": (MixerViT, ViT, {**V3, "pos_embed_type": "fourier"}, (8, 16, 12)),
    "vit_perceptron": (MixerViT, ViT, {**V3, "proj_type": "perceptron", "qkv_bias": True}, (8, 16, 12)),
    "vit_dropout": (MixerViT, ViT, {**V2, "dropout_rate": 0.4}, (16, 24)),
    "unetr_2d": (MixerUNETR, UNETR, {**U, "qkv_bias": True}, (16, 32)),
    "unetr_3d": (MixerUNETR, UNETR, {**U3, "dropout_rate": 0.4}, (16, 32, 16)),
    "unetr_no_conv": (MixerUNETR, UNETR, {**U, "conv_block": False}, (16, 32)),
    "unetr_no_res": (MixerUNETR, UNETR, {**U, "res_block": False, "proj_type": "perceptron"}, (16, 32)),
    "unetr_no_both": (MixerUNETR, UNETR, {**U3, "res_block": False, "conv_block": False}, (16, 32, 16)),
    "swin_2d": (MixerSwin, SwinTransformer, {**S, "patch_norm": True}, (50, 37)),
    "swin_2d_even": (MixerSwin, SwinTransformer, {**S, "window_size": 4, "qkv_bias": False}, (47, 26)),
    "swin_3d": (MixerSwin, SwinTransformer, {**S3, "window_size": (3, 5, 2)}, (19, 25, 14)),
    "swin_3d_v2": (MixerSwin, SwinTransformer, {**S3, "use_v2": True, "downsample": "mergingv2"}, (35, 34, 37)),
    "swin_dropout": (
        MixerSwin,
        SwinTransformer,
        {**S, "drop_rate": 0.4, "attn_drop_rate": 0.4, "dropout_path_rate": 0.4},
        (22, 31),
    ),
    "swin_unetr_2d": (MixerSwinUNETR, SwinUNETR, {**SU, "window_size": 7}, (64, 96)),
    "swin_unetr_2d_v2": (MixerSwinUNETR, SwinUNETR, {**SU, "use_v2": True, "normalize": False}, (64, 32)),
    "swin_unetr_2d_mergingv2": (
        MixerSwinUNETR,
        SwinUNETR,
        {**SU, "downsample": "mergingv2", "window_size": (5, 4), "attn_drop_rate": 0.4},
        (32, 64),
    ),
    "swin_unetr_3d": (MixerSwinUNETR, SwinUNETR, {**SU3, "window_size": 5}, (32, 64, 32)),
    "swin_unetr_3d_v2": (
        MixerSwinUNETR,
        SwinUNETR,
        {**SU3, "use_v2": True, "downsample": "mergingv2", "window_size": (4, 3, 5), "patch_norm": True},
        (64, 32, 32),
    ),
}


def build(name: str) -> tuple[torch.nn.Module, torch.nn.Module, torch.Tensor]:
    """Ours, MONAI's and an image. Ours has weights of its own."""
    ours, monai, options, size = CASES[name]
    torch.manual_seed(0)
    reference = monai(**(swin_arguments(options) if monai is SwinTransformer else options)).eval()
    for parameter in reference.parameters():  # nothing is left at zero or one
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return ours(**options).eval(), reference, torch.randn(2 if len(size) == 2 else 1, 2, *size)


def swin_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """What MONAI's SwinTransformer calls them."""
    names = {"in_channels": "in_chans", "feature_size": "embed_dim", "dropout_path_rate": "drop_path_rate"}
    sizes = {key: ensure_tuple_rep(options[key], options["spatial_dims"]) for key in ("patch_size", "window_size")}
    return {names.get(key, key): value for key, value in {**options, **sizes}.items()}


def tensors(out: Any) -> list[torch.Tensor]:
    return [out] if isinstance(out, torch.Tensor) else [t for part in out for t in tensors(part)]


def names_of(ours: torch.nn.Module, monai: torch.nn.Module) -> dict[str, str]:
    """MONAI's name of each tensor of ours, found by loading a different number into each."""
    marks = {key: torch.full_like(value, i) for i, (key, value) in enumerate(monai.state_dict().items(), start=1)}
    kept = {key: value.clone() for key, value in ours.state_dict().items()}
    ours.load_state_dict(marks, strict=True)
    keys = list(marks)
    found = {key: keys[int(value.flatten()[0]) - 1] for key, value in ours.state_dict().items()}
    ours.load_state_dict(kept, strict=True)
    return found


def compare_gradients(ours: torch.nn.Module, monai: torch.nn.Module, x: torch.Tensor, names: dict[str, str]) -> None:
    """In float64, so that what is equal differs by rounding only."""
    gradients = []
    for net in (ours.double(), monai.double()):
        image = x.double().requires_grad_()
        outs = tensors(net(image))
        torch.manual_seed(1)
        sum((out * torch.randn_like(out)).sum() for out in outs).backward()
        gradients.append({"": image.grad, **{key: p.grad for key, p in net.named_parameters() if p.requires_grad}})
    mine, theirs = gradients
    for key, gradient in mine.items():
        assert gradient is not None, f"{key} is not used"
        wanted = theirs.pop(names.get(key, ""))
        scale = wanted.abs().max()
        assert scale > 0, key
        assert (gradient - wanted).abs().max() < 1e-6 * scale, key
    assert all(gradient is None for gradient in theirs.values()), "MONAI trains what we do not have"


@pytest.mark.parametrize("name", CASES)
def test_same_as_monai(name: str) -> None:
    ours, monai, x = build(name)
    names = names_of(ours, monai)
    weights = monai.state_dict()
    keys = list(weights)
    ours.load_state_dict(weights, strict=True)
    assert list(weights) == keys, "loading must leave the caller's dict alone"
    with torch.no_grad():
        mine, theirs = tensors(ours(x)), tensors(monai(x))
    assert [t.shape for t in mine] == [t.shape for t in theirs]
    assert max((a - b).abs().max() for a, b in zip(mine, theirs)) < 1e-4
    compare_gradients(ours, monai, x, names)


@pytest.mark.parametrize("name", ["vit_tanh", "unetr_2d", "swin_2d", "swin_unetr_2d_v2"])
def test_our_own_weights_return(name: str) -> None:
    (ours, monai, x), (other, _, _) = build(name), build(name)
    ours.load_state_dict(monai.state_dict())
    other.load_state_dict(ours.state_dict(), strict=True)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(tensors(ours(x)), tensors(other(x))))


@pytest.mark.parametrize("name", ["vit_2d", "unetr_2d"])
def test_older_monai_weights(name: str) -> None:
    """Up to MONAI 1.5 each block had a cross-attention that nothing called."""
    ours, monai, x = build(name)
    weights = monai.state_dict()
    blocks = [key.removesuffix("norm_cross_attn.weight") for key in weights if key.endswith("norm_cross_attn.weight")]
    assert blocks
    for block in blocks:
        for part in ("to_q.weight", "to_k.weight", "to_v.weight", "out_proj.weight", "out_proj.bias"):
            weights[f"{block}cross_attn.{part}"] = torch.randn(12, 12)
    ours.load_state_dict(weights, strict=True)
    with torch.no_grad():
        for a, b in zip(tensors(ours(x)), tensors(monai(x))):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_positions_none() -> None:
    """MONAI's "none" are positions that start at zero; once trained, they are learnable ones."""
    options = {**V2, "pos_embed_type": "none"}
    monai, ours = ViT(**options), MixerViT(**options)
    ours.load_state_dict(monai.state_dict(), strict=True)
    x = torch.randn(1, 2, 16, 24)
    torch.testing.assert_close(ours(x)[0], monai(x)[0], atol=1e-4, rtol=0)
    torch.nn.init.normal_(monai.patch_embedding.position_embeddings)
    with pytest.raises(RuntimeError, match=r"position_embeddings are not zero.*pos_embed_type='learnable'"):
        ours.load_state_dict(monai.state_dict())
    ours = MixerViT(**V2)
    ours.load_state_dict(monai.state_dict(), strict=True)
    torch.testing.assert_close(ours(x)[0], monai(x)[0], atol=1e-4, rtol=0)


class OldMerging(PatchMerging):
    """MONAI's merging before release 1.5, token by token."""

    order = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, *grid, c = x.shape
        half = [(g + 1) // 2 for g in grid]
        out = x.new_zeros(b, *half, 8 * c)
        for place in itertools.product(*map(range, half)):
            for number, neighbour in enumerate(self.order):
                source = [2 * p + n for p, n in zip(place, neighbour)]
                if all(s < g for s, g in zip(source, grid)):
                    out[(slice(None), *place, slice(number * c, (number + 1) * c))] = x[(slice(None), *source)]
        return self.reduction(self.norm(out))


@pytest.mark.parametrize("size", [(16, 8, 24), (10, 6, 18)], ids=str)
def test_merging_before_1_5(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    common = {**S3, "depths": (1, 1, 1, 1)}
    monai = SwinTransformer(**swin_arguments(common), downsample=OldMerging)
    ours = MixerSwin(**common, downsample="merging_before_1_5")
    ours.load_state_dict(monai.state_dict(), strict=True)
    x = torch.randn(2, 2, *size)
    new = MixerSwin(**common)
    new.load_state_dict(monai.state_dict(), strict=True)
    assert not torch.allclose(new(x)[-1], ours(x)[-1], atol=1e-2)
    names = names_of(ours, monai)
    for a, b in zip(ours.double()(x.double()), monai.double()(x.double())):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    compare_gradients(ours, monai, x, names)


def test_merging_before_1_5_reaches_swin_unetr() -> None:
    net = MixerSwinUNETR(**{**SU3, "depths": (1,), "num_heads": (3,)}, downsample="merging_before_1_5")
    torch.manual_seed(0)
    x = torch.randn(1, 5, 3, 7, 12)
    old = OldMerging(dim=12, spatial_dims=3)
    merging = net.swin.stages[0].downsample
    old.load_state_dict(merging.state_dict())
    torch.testing.assert_close(merging(x), old(x))
