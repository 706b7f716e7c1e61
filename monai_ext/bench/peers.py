"""Networks of ours beside MONAI's: what is compared, and how both are built.

Legend: B batch, C channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from monai.networks.blocks.hyena import is_nvsubquadratic_available
from monai.networks.nets import UNETR, HyenaNDUNETR, SwinUNETR, ViT

from monai_ext.networks import MixerSwinUNETR, MixerUNETR, MixerViT

OURS, MONAI = "ours", "monai"
MODES = ("train", "inference", "encoder")
# "ours" compares our checkpointed network with MONAI's as it is, "both" with MONAI's own checkpointing
CHECKPOINT = ("no", "ours", "both")


@dataclass(frozen=True)
class Preset:
    """A row of the comparison, at one or several sizes.

    Args:
        network: a key of `NETWORKS`.
        dims: spatial dimensions.
        sizes: of the image along each axis.
        parts: sizes of a window (Swin) or a patch (others) along each axis.
        modes: some of `MODES`.
        options: constructor arguments of both networks.
        own: constructor arguments of ours alone.
        against: "same": MONAI's with the same weights, after a check that outputs and gradients agree;
            "check": so checked, but MONAI's is not run at full size; "other": MONAI's with weights of its own;
            "": ours alone, nothing to check.
        checkpoint: one of `CHECKPOINT`.
        note: stands in the record.
    """

    network: str
    dims: int
    sizes: Sequence[int]
    parts: Sequence[int]
    modes: Sequence[str] = ("train", "inference")
    options: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    against: str = "same"
    checkpoint: str = "no"
    note: str = ""


def _vit(width: int) -> dict[str, int]:
    return {"hidden_size": width, "mlp_dim": 4 * width, "num_layers": 4, "num_heads": 6}


_WIRED = "MONAI's UNETR has patches of 16 only: this is its ViT and its blocks, wired for patches of 8."

PRESETS: dict[str, Preset] = {
    "swin_unetr": Preset("swin_unetr", 3, (64, 96), (7,), MODES),
    "swin_unetr_checkpoint": Preset(
        "swin_unetr",
        3,
        (64, 96),
        (7,),
        ("train",),
        checkpoint="ours",
        note="ours recomputes activations, MONAI's does not",
    ),
    "swin_unetr_window10": Preset("swin_unetr", 3, (64,), (10,), ("train",)),
    "swin_unetr_window16": Preset(
        "swin_unetr",
        3,
        (96,),
        (16,),
        ("train",),
        against="check",
        note="MONAI's score matrices alone would pass 24 GB",
    ),
    "swin_unetr_2d": Preset("swin_unetr", 2, (512,), (7,), MODES),
    "vit_192": Preset("vit", 2, (256,), (4,), options=_vit(192)),
    "vit_384": Preset("vit", 2, (256,), (4,), options=_vit(384)),
    "vit_3d": Preset("vit", 3, (64,), (8,), options=_vit(192)),
    "unetr": Preset("unetr", 3, (128,), (16,)),
    "unetr_patch8": Preset("unetr_wired", 3, (128,), (8,), note=_WIRED),
    # at its full width MONAI's needs more memory than most machines have
    "unetr_patch8_narrow": Preset(
        "unetr_wired", 3, (128,), (8,), options={"hidden_size": 192, "mlp_dim": 768, "num_heads": 6}, note=_WIRED
    ),
    "unetr_2d": Preset("unetr", 2, (512,), (16,)),
    "long_seqnorm": Preset("vit", 2, (1024,), (4,), ("train",), _vit(192), {"mixer": "seqnorm"}, ""),
    "long_hyena_nd": Preset("vit", 2, (1024,), (4,), ("train",), _vit(192), {"mixer": "hyena_nd"}, ""),
    "hyena_nd_unetr": Preset(
        "hyena_nd_unetr",
        3,
        (64,),
        (7,),
        own={"mixer": "hyena_nd"},
        against="other",
        note="not the same weights, since the operators differ in their details: outputs are not compared",
    ),
}


class WiredUNETR(nn.Module):
    """MONAI's ViT and blocks, wired for patches of any 2^L as MONAI's `UNETR` wires them for 16.

    Its parameters bear the names that `UNETR` gives them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: Sequence[int],
        patch_size: int,
        feature_size: int = 16,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_layers: int = 12,
        num_heads: int = 12,
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        steps = patch_size.bit_length() - 1
        common = {"spatial_dims": spatial_dims, "kernel_size": 3, "norm_name": "instance", "res_block": True}
        up = {**common, "upsample_kernel_size": 2}
        self.vit = ViT(
            in_channels, img_size, patch_size, hidden_size, mlp_dim, num_layers, num_heads, spatial_dims=spatial_dims
        )
        self.taps = [round(num_layers * level / steps) for level in range(1, steps)]
        self.grid = [size // patch_size for size in img_size]
        self.encoder1 = UnetrBasicBlock(in_channels=in_channels, out_channels=feature_size, stride=1, **common)
        widths = [*(feature_size << level for level in range(steps)), hidden_size]
        for level in range(1, steps):
            encoder = UnetrPrUpBlock(
                in_channels=hidden_size,
                out_channels=widths[level],
                num_layer=steps - level - 1,
                stride=1,
                conv_block=True,
                **up,
            )
            self.add_module(f"encoder{level + 1}", encoder)
        for level in range(steps):
            self.add_module(
                f"decoder{level + 2}", UnetrUpBlock(in_channels=widths[level + 1], out_channels=widths[level], **up)
            )
        self.out = UnetOutBlock(spatial_dims, feature_size, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens, hidden_states = self.vit(x)

        def as_map(t: torch.Tensor) -> torch.Tensor:
            return t.transpose(1, 2).reshape(len(t), -1, *self.grid)

        skips = [self.encoder1(x)]
        for number, tap in enumerate(self.taps, start=2):
            skips.append(self.get_submodule(f"encoder{number}")(as_map(hidden_states[tap])))
        out = as_map(tokens)
        for level in reversed(range(len(skips))):
            out = self.get_submodule(f"decoder{level + 2}")(out, skips[level])
        return self.out(out)


def _hyena_everywhere(**options: Any) -> nn.Module:
    return HyenaNDUNETR.get_variant("HHHH", **options)


@dataclass(frozen=True)
class Network:
    """A class of ours and MONAI's.

    Args:
        ours, monai: the constructors.
        part: what the parts are: "window" or "patch".
        sized: both are made for one size of image.
        part_of_monai: whether MONAI's takes a size of the parts.
        checkpoints: whether MONAI's can recompute activations.
        segments: gives a map of `options["out_channels"]` channels; else tokens and hidden states.
        modes: what there is to measure.
    """

    ours: Callable[..., nn.Module]
    monai: Callable[..., nn.Module]
    part: str
    options: Mapping[str, Any]
    sized: bool = True
    part_of_monai: bool = True
    checkpoints: bool = False
    modes: Sequence[str] = ("train", "inference")


_SEGMENTS = {"in_channels": 1, "out_channels": 2}
_SWIN = {**_SEGMENTS, "feature_size": 24}
NETWORKS: dict[str, Network] = {
    "swin_unetr": Network(MixerSwinUNETR, SwinUNETR, "window", _SWIN, sized=False, checkpoints=True, modes=MODES),
    "vit": Network(MixerViT, ViT, "patch", {"in_channels": 1}),
    "unetr": Network(MixerUNETR, UNETR, "patch", _SEGMENTS, part_of_monai=False),
    "unetr_wired": Network(MixerUNETR, WiredUNETR, "patch", _SEGMENTS),
    "hyena_nd_unetr": Network(
        MixerSwinUNETR, _hyena_everywhere, "window", _SWIN, sized=False, checkpoints=True, modes=MODES
    ),
}


def missing_packages(preset: Preset) -> str:
    """Why MONAI's network cannot be built here, or nothing."""
    if preset.network == "hyena_nd_unetr" and not is_nvsubquadratic_available():
        return "MONAI's HyenaNDUNETR needs the package nvsubquadratic, which cannot be imported here."
    return ""


def build(preset: Preset, side: str, size: Sequence[int], part: int, checkpoint: str) -> nn.Module:
    """The network of `side` for images of `size`.

    Raises:
        ValueError: where MONAI's has no such thing.
    """
    network = NETWORKS[preset.network]
    options = {"spatial_dims": preset.dims, **network.options, **preset.options}
    if network.sized:
        options["img_size"] = tuple(size)
    if side == OURS:
        return network.ours(
            **{f"{network.part}_size": part, "use_checkpoint": checkpoint != "no", **options, **preset.own}
        )
    if network.part_of_monai:
        options[f"{network.part}_size"] = part
    elif part != 16:
        raise ValueError(f"MONAI's UNETR has patches of 16 only, not of {part}.")
    if checkpoint == "both" and not network.checkpoints:
        raise ValueError(f"MONAI's {network.monai.__name__} has no checkpointing: use checkpoint=ours.")
    if checkpoint == "both":
        options["use_checkpoint"] = True
    return network.monai(**options)


def run(net: nn.Module, side: str, mode: str, x: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of the network, of a Swin UNETR's encoder in the mode "encoder"."""
    if mode == "encoder":
        return net.swin(x) if side == OURS else net.swinViT(x, True)
    out = net(x)
    return [out] if isinstance(out, torch.Tensor) else [out[0]]


def check_size(preset: Preset, part: int) -> tuple[int, ...]:
    """A small size, different along each axis, at which grids are odd or cut windows off.

    MONAI's Swin UNETR takes multiples of 32 only; its norms want more than a few voxels at the bottom.
    """
    if NETWORKS[preset.network].part == "window":
        return (64, 96) if preset.dims == 2 else (64, 64, 32)
    return tuple(part * number for number in (5, 3, 2)[: preset.dims])


def tokens(preset: Preset, size: int, part: int) -> int:
    """Tokens of an image; in a Swin those of the first stage, of patches of 2."""
    patch = part if NETWORKS[preset.network].part == "patch" else 2
    return math.prod(itertools.repeat(-(-size // patch), preset.dims))
