"""UPerNet on a ViT and on a Swin transformer whose attention is an option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from monai.utils import ensure_tuple_rep

from monai_ext.blocks.image_size import check_image, check_widths, crop_to, pad_to_multiple, resize_to
from monai_ext.blocks.metadata import beside_metadata
from monai_ext.blocks.plain_pyramid import PlainPyramid
from monai_ext.blocks.uper_head import NORM, POOL_SIZES, UPerHead
from monai_ext.mixers import MixerSpec
from monai_ext.networks.swin import MixerSwin
from monai_ext.networks.vit import MixerViT

VIT_MAPS = 4


class MixerViTUPerNet(nn.Module):
    """UPerNet (Xiao et al., 2018) on a ViT, as BEiT has it, with any mixer, any patches and images of any size.

    The tokens of four blocks at equal distances, of the last one behind the norm, are the maps that
    :class:`monai_ext.blocks.uper_head.UPerHead` reads. With ``pyramid`` they are first brought to 4, 2, 1 and 1/2 times
    the resolution of the patches (:class:`monai_ext.blocks.plain_pyramid.PlainPyramid`), without it they stay, as in
    the study of Hooper and Xue (2024). The logits of the finest map are interpolated linearly to the image.

    The pyramid is the default, since the method is made for maps of different resolutions and since without it nothing
    in the output is finer than a patch. Where patches are of 2 or 4 voxels, ``pyramid=False`` saves most of the head's
    time and memory.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output (classes).
        img_size: size for which the positions are made; other sizes interpolate them.
        patch_size: size of a patch, any, one number or one an axis. Small patches are a long context.
        hidden_size: channels of a token.
        mlp_dim: inner width of the feed-forward networks.
        num_layers: number of transformer blocks; with fewer than four some blocks serve for several maps.
        num_heads: heads of each mixer.
        mixer: see :class:`MixerViT`.
        proj_type: ``"conv"`` or ``"perceptron"``.
        pos_embed_type: ``"learnable"``, ``"sincos"``, ``"fourier"`` or ``"none"``.
        norm_name: norm of the head's and the pyramid's convolutions; see :class:`UPerHead` on ``"instance"``.
        dropout_rate: dropout in the transformer.
        spatial_dims: 2 or 3.
        qkv_bias: a bias in the projection to queries, keys and values.
        use_checkpoint: recompute transformer blocks and the head's convolutions in the backward.
        num_registers: see :class:`MixerViT`.
        block: see :class:`MixerViT`.
        taps: the blocks whose tokens become maps, finest first, counted from 0 or, below 0, from the end; the last
            block is the last of them. Of 12 blocks 3, 6, 9 and 11 are the default.
        pyramid: bring the maps to different resolutions.
        head_channels: channels inside the head.
        pool_sizes: bins along each axis of the head's pooled maps; (1, 2, 4, 6) in the study.
        head_dropout_rate: dropout of channels before the classifier.
        shared_smoothing: see :class:`UPerHead`; as in the study.
        dropout: see :class:`MixerViT`.

    Raises:
        ValueError: as :class:`MixerViT` and :class:`UPerHead`, and for taps that are out of order or of range or leave
            out the last block.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: Sequence[int] | int,
        patch_size: Sequence[int] | int = 16,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_layers: int = 12,
        num_heads: int = 12,
        mixer: MixerSpec | Sequence[MixerSpec] = "softmax",
        proj_type: str = "conv",
        pos_embed_type: str = "learnable",
        norm_name: tuple | str | None = NORM,
        dropout_rate: float = 0.0,
        spatial_dims: int = 3,
        qkv_bias: bool = False,
        use_checkpoint: bool = False,
        num_registers: int = 0,
        block: Mapping[str, Any] | None = None,
        taps: Sequence[int] | None = None,
        pyramid: bool = True,
        head_channels: int = 64,
        pool_sizes: Sequence[int] = POOL_SIZES,
        head_dropout_rate: float = 0.0,
        shared_smoothing: bool = False,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        check_widths(out_channels=out_channels, head_channels=head_channels)
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.patch_size = ensure_tuple_rep(patch_size, spatial_dims)
        self.vit = MixerViT(
            in_channels,
            # whole patches: the image is padded to them
            [-(-size // p) * p for size, p in zip(ensure_tuple_rep(img_size, spatial_dims), self.patch_size)],
            self.patch_size,
            hidden_size,
            mlp_dim,
            num_layers,
            num_heads,
            mixer,
            proj_type,
            pos_embed_type,
            dropout_rate=dropout_rate,
            spatial_dims=spatial_dims,
            qkv_bias=qkv_bias,
            use_checkpoint=use_checkpoint,
            num_registers=num_registers,
            block=block,
            dropout=dropout,
        )
        if taps is None:  # as MixerUNETR with as many steps: the last one clipped, repeated where blocks are few
            taps = [
                max(min(round(num_layers * level / VIT_MAPS), num_layers - 1 - VIT_MAPS + level), 0)
                for level in range(1, VIT_MAPS + 1)
            ]
        self.taps = _checked_taps(taps, num_layers, "block")
        self.pyramid = (
            PlainPyramid(spatial_dims, hidden_size, len(self.taps), self.patch_size, norm_name, use_checkpoint)
            if pyramid
            else None
        )
        self.head = UPerHead(
            spatial_dims,
            [hidden_size] * len(self.taps) if self.pyramid is None else self.pyramid.out_channels,
            head_channels,
            out_channels,
            pool_sizes,
            norm_name,
            dropout_rate=head_dropout_rate,
            shared_smoothing=shared_smoothing,
            use_checkpoint=use_checkpoint,
        )

    @beside_metadata
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Image (B, in_channels, *size) of any size to logits (B, out_channels, *size)."""
        check_image(x, self.in_channels, self.spatial_dims, type(self).__name__)
        size = x.shape[2:]
        x = pad_to_multiple(x, self.patch_size)
        tokens, hidden_states, grid = self.vit.forward_tokens(x)
        taken = [*(hidden_states[tap] for tap in self.taps[:-1]), self.vit.norm(tokens)]
        maps = [t.transpose(1, 2).unflatten(2, grid) for t in taken]
        if self.pyramid is not None:
            maps = self.pyramid(maps)
        return crop_to(resize_to(self.head(maps), x.shape[2:]), size)


class MixerSwinUPerNet(nn.Module):
    """UPerNet (Xiao et al., 2018) on a Swin transformer with any mixer, any number of stages and images of any size.

    The head (:class:`monai_ext.blocks.uper_head.UPerHead`) reads the map after each stage, behind its patch merging:
    with four stages the last four maps of five, as in the study of Hooper and Xue (2024), and with patches of 2 voxels
    the strides of 4, 8, 16 and 32 that are usual. Its logits are interpolated linearly from the finest map to the
    image. An image whose size the strides do not divide is padded by its last values, and the output cropped.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output (classes).
        patch_size: size of a patch.
        depths: number of blocks of each stage; fewer stages suit small images.
        num_heads: heads of each stage.
        window_size: tokens along each axis of a window; a small grid clips it.
        mixer: see :class:`MixerSwin`.
        feature_size: channels of the first stage; each stage doubles them.
        norm_name: norm of the head's convolutions; see :class:`UPerHead` on ``"instance"``.
        mlp_ratio: inner width of the feed-forward networks over the stage's.
        qkv_bias: a bias in the projection to queries, keys and values.
        drop_rate: dropout of tokens, of the mixers' outputs and inside the feed-forward networks.
        attn_drop_rate: dropout of attention weights, where a mixer has them.
        dropout_path_rate: stochastic depth of the last block; it grows linearly from 0.
        normalize: layer norm, without parameters, of the maps.
        patch_norm: layer norm after the patch embedding.
        use_checkpoint: recompute blocks and the head's convolutions in the backward.
        spatial_dims: 2 or 3.
        downsample: see :class:`MixerSwin`.
        use_v2: begin each stage with a residual convolutional block.
        block: see :class:`MixerSwin`.
        taps: the maps that the head reads, finest first: 0 is that of the embedded patches, i that after stage i, and
            below 0 they count from the end; the last map is the last of them. 0, 1, 2 … adds the resolution of the
            patches to the default of 1, 2 …
        head_channels: channels inside the head; the study has ``2 * feature_size``.
        pool_sizes: bins along each axis of the head's pooled maps; (1, 2, 4, 6) in the study.
        head_dropout_rate: dropout of channels before the classifier.
        shared_smoothing: see :class:`UPerHead`; as in the study.
        dropout: see :class:`MixerSwin`.

    Raises:
        ValueError: as :class:`MixerSwin` and :class:`UPerHead`, and for taps that are out of order or of range or leave
            out the last map.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        patch_size: Sequence[int] | int = 2,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: Sequence[int] | int = 7,
        mixer: MixerSpec | Sequence[MixerSpec | Sequence[MixerSpec]] = "softmax",
        feature_size: int = 24,
        norm_name: tuple | str | None = NORM,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        dropout_path_rate: float = 0.0,
        normalize: bool = True,
        patch_norm: bool = False,
        use_checkpoint: bool = False,
        spatial_dims: int = 3,
        downsample: str = "merging",
        use_v2: bool = False,
        block: Mapping[str, Any] | None = None,
        taps: Sequence[int] | None = None,
        head_channels: int = 64,
        pool_sizes: Sequence[int] = POOL_SIZES,
        head_dropout_rate: float = 0.0,
        shared_smoothing: bool = False,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        check_widths(out_channels=out_channels, head_channels=head_channels)
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.swin = MixerSwin(
            in_channels,
            patch_size,
            depths,
            num_heads,
            window_size,
            mixer,
            feature_size,
            mlp_ratio,
            qkv_bias,
            drop_rate,
            attn_drop_rate,
            dropout_path_rate,
            normalize,
            patch_norm,
            use_checkpoint,
            spatial_dims,
            downsample,
            use_v2,
            block=block,
            dropout=dropout,
        )
        stages = len(depths)
        self.taps = _checked_taps(range(1, stages + 1) if taps is None else taps, stages + 1, "map")
        self.multiple = tuple(p << stages for p in self.swin.patch_size)
        self.head = UPerHead(
            spatial_dims,
            [feature_size << tap for tap in self.taps],
            head_channels,
            out_channels,
            pool_sizes,
            norm_name,
            dropout_rate=head_dropout_rate,
            shared_smoothing=shared_smoothing,
            use_checkpoint=use_checkpoint,
        )

    @beside_metadata
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Image (B, in_channels, *size) of any size to logits (B, out_channels, *size)."""
        check_image(x, self.in_channels, self.spatial_dims, type(self).__name__)
        size = x.shape[2:]
        x = pad_to_multiple(x, self.multiple)
        maps = self.swin(x)
        return crop_to(resize_to(self.head([maps[tap] for tap in self.taps]), x.shape[2:]), size)


def _checked_taps(taps: Sequence[int], count: int, what: str) -> list[int]:
    """The taps counted from 0; what lies behind the last of them would be computed and never used."""
    found = [tap + count if tap < 0 else tap for tap in taps]
    if not found or found != sorted(found) or found[0] < 0 or found[-1] != count - 1:
        raise ValueError(
            f"taps must name {what}s from 0 to {count - 1} in ascending order with the last, {count - 1}, at the end "
            f"(-1 means it), got {list(taps)}."
        )
    return found
