"""Swin UNETR whose attention is an option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrUpBlock

from monai_ext.blocks.image_size import check_image, check_widths, crop_to, pad_to_multiple
from monai_ext.blocks.lean_convolutions import keep_less
from monai_ext.blocks.metadata import beside_metadata
from monai_ext.blocks.monai_weights import accept_monai_weights
from monai_ext.blocks.norms import allow_tiny_maps
from monai_ext.blocks.recompute import recompute
from monai_ext.mixers import MixerSpec
from monai_ext.networks.swin import MixerSwin


class MixerSwinUNETR(nn.Module):
    """Swin UNETR (Hatamizadeh et al., 2022) with any mixer, any number of stages and images of any size.

    An image whose size the strides do not divide is padded by its last values, and the output cropped. With
    ``mixer="softmax"`` and four stages it takes the state dict of MONAI's ``SwinUNETR`` (v1 and v2 blocks) as it is
    and gives the same outputs.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output (classes).
        patch_size: size of a patch; a map of patches is brought back to full resolution in one step.
        depths: number of blocks of each stage; fewer stages suit small images.
        num_heads: heads of each stage.
        window_size: tokens along each axis of a window; a small grid clips it.
        mixer: see :class:`MixerSwin`.
        feature_size: channels of the first stage, and at full resolution; each stage doubles them.
        norm_name: norm of the convolutional blocks.
        mlp_ratio: inner width of the feed-forward networks over the stage's.
        qkv_bias: a bias in the projection to queries, keys and values.
        drop_rate: dropout of tokens, of the mixers' outputs and inside the feed-forward networks.
        attn_drop_rate: dropout of attention weights, where a mixer has them.
        dropout_path_rate: stochastic depth of the last block; it grows linearly from 0.
        normalize: layer norm, without parameters, of the encoder's hidden states.
        patch_norm: layer norm after the patch embedding.
        use_checkpoint: recompute blocks of encoder and decoder in the backward.
        spatial_dims: 2 or 3.
        downsample: see :class:`MixerSwin`.
        use_v2: begin each stage with a residual convolutional block.
        block: see :class:`MixerSwin`.
        dropout: see :class:`MixerSwin`.
        full_resolution_size: channels at full resolution where they are to be others than those of the first stage.
            With patches of two voxels most of a 3D network's time goes there.

    Raises:
        ValueError: as :class:`MixerSwin`, or for a ``full_resolution_size`` below 1.
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
        norm_name: tuple | str = "instance",
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
        dropout: float | None = None,
        full_resolution_size: int | None = None,
    ) -> None:
        super().__init__()
        check_widths(out_channels=out_channels, feature_size=feature_size, full_resolution_size=full_resolution_size)
        self.in_channels, self.spatial_dims, self.use_checkpoint = in_channels, spatial_dims, use_checkpoint
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
        common = {"spatial_dims": spatial_dims, "kernel_size": 3, "norm_name": norm_name, "res_block": True}

        def conv(inside: int, outside: int) -> nn.Module:
            return UnetrBasicBlock(in_channels=inside, out_channels=outside, stride=1, **common)

        # the image, the hidden states but the last two, and the bottleneck pass a block; the last but one goes as it is
        full = feature_size if full_resolution_size is None else full_resolution_size
        widths = [feature_size << i for i in range(stages + 1)]
        self.encoders = nn.ModuleList([conv(in_channels, full), *(conv(w, w) for w in widths[: stages - 1])])
        self.bottleneck = conv(widths[-1], widths[-1])
        self.decoders = nn.ModuleList(
            UnetrUpBlock(
                in_channels=widths[max(level, 0)],
                out_channels=widths[level - 1] if level else full,
                upsample_kernel_size=2 if level else self.swin.patch_size,
                **common,
            )
            for level in range(stages + 1)
        )
        self.out = UnetOutBlock(spatial_dims, full, out_channels)
        keep_less(allow_tiny_maps(self))
        self.multiple = tuple(p << stages for p in self.swin.patch_size)
        monai_names = [(r"swinViT\.", "swin."), (r"encoder10\.", "bottleneck.")]
        monai_names += [(rf"encoder{i + 1}\.", f"encoders.{i}.") for i in range(stages)]
        monai_names += [(rf"decoder{i + 1}\.", f"decoders.{i}.") for i in range(stages + 1)]
        accept_monai_weights(self, monai_names)

    @beside_metadata
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Image (B, in_channels, *size) of any size to logits (B, out_channels, *size)."""
        check_image(x, self.in_channels, self.spatial_dims, type(self).__name__)
        size = x.shape[2:]
        x = pad_to_multiple(x, self.multiple)
        hidden_states = self.swin(x)
        skips = [self._run(encoder, h) for encoder, h in zip(self.encoders, [x, *hidden_states])]
        skips.append(hidden_states[-2])
        out = self._run(self.bottleneck, hidden_states[-1])
        for decoder, skip in zip(reversed(self.decoders), reversed(skips)):
            out = self._run(decoder, out, skip)
        return crop_to(self.out(out), size)

    def _run(self, block: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        return recompute(block, *inputs) if self.use_checkpoint else block(*inputs)
