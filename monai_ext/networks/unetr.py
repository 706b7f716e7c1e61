"""UNETR whose attention is an option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock
from monai.utils import ensure_tuple_rep

from monai_ext.blocks.image_size import check_image, check_widths, crop_to, pad_to_multiple
from monai_ext.blocks.lean_convolutions import keep_less
from monai_ext.blocks.metadata import beside_metadata
from monai_ext.blocks.monai_weights import accept_monai_weights
from monai_ext.blocks.norms import allow_tiny_maps
from monai_ext.blocks.recompute import recompute
from monai_ext.mixers import MixerSpec
from monai_ext.networks.vit import MixerViT


class MixerUNETR(nn.Module):
    """UNETR (Hatamizadeh et al., 2021) with any mixer, any patch size 2^L and images of any size.

    The tokens of the last block, and those of L - 1 earlier ones at equal distances, are brought to the scales of a
    U-shaped decoder with L steps. With ``mixer="softmax"``, 12 layers and patches of 16 it takes the state dict of
    MONAI's ``UNETR`` as it is and gives the same outputs.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the output (classes).
        img_size: size for which the positions are made; other sizes interpolate them.
        patch_size: a power of two, the same for each axis. Small patches are a long context.
        feature_size: channels of the decoder at full resolution; they double with each step down.
        hidden_size: channels of a token.
        mlp_dim: inner width of the feed-forward networks.
        num_layers: number of transformer blocks, at least one for each step of the decoder.
        num_heads: heads of each mixer.
        mixer: see :class:`MixerViT`.
        proj_type: ``"conv"`` or ``"perceptron"``.
        pos_embed_type: ``"learnable"``, ``"sincos"``, ``"fourier"`` or ``"none"``.
        norm_name: norm of the convolutional blocks.
        conv_block: convolutions after each upsampling of a skip.
        res_block: residual convolutional blocks.
        dropout_rate: dropout in the transformer.
        spatial_dims: 2 or 3.
        qkv_bias: a bias in the projection to queries, keys and values.
        use_checkpoint: recompute transformer blocks and decoder steps in the backward.
        num_registers: see :class:`MixerViT`.
        block: see :class:`MixerViT`.
        dropout: see :class:`MixerViT`.

    Raises:
        ValueError: as :class:`MixerViT`, and for a patch size that is no power of two or too few layers.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: Sequence[int] | int,
        patch_size: int = 16,
        feature_size: int = 16,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_layers: int = 12,
        num_heads: int = 12,
        mixer: MixerSpec | Sequence[MixerSpec] = "softmax",
        proj_type: str = "conv",
        pos_embed_type: str = "learnable",
        norm_name: tuple | str = "instance",
        conv_block: bool = True,
        res_block: bool = True,
        dropout_rate: float = 0.0,
        spatial_dims: int = 3,
        qkv_bias: bool = False,
        use_checkpoint: bool = False,
        num_registers: int = 0,
        block: Mapping[str, Any] | None = None,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        check_widths(in_channels=in_channels, out_channels=out_channels, feature_size=feature_size)
        steps = patch_size.bit_length() - 1 if isinstance(patch_size, int) and patch_size > 1 else 0
        if steps < 1 or 1 << steps != patch_size:
            raise ValueError(f"patch_size must be 2, 4, 8, 16 … for the steps of the decoder, got {patch_size!r}.")
        if num_layers < steps:
            raise ValueError(f"patch_size {patch_size} needs at least {steps} layers, got num_layers {num_layers}.")
        self.in_channels, self.spatial_dims, self.use_checkpoint = in_channels, spatial_dims, use_checkpoint
        self.patch_size = ensure_tuple_rep(patch_size, spatial_dims)
        self.vit = MixerViT(
            in_channels,
            # whole patches: the image is padded to them
            [-(-size // patch_size) * patch_size for size in ensure_tuple_rep(img_size, spatial_dims)],
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
        # the block whose tokens feed the decoder at 1/2, 1/4 … of the resolution: all different, and none the last
        self.taps = [
            min(round(num_layers * level / steps), num_layers - 1 - steps + level) for level in range(1, steps)
        ]
        common = {"spatial_dims": spatial_dims, "kernel_size": 3, "norm_name": norm_name, "res_block": res_block}
        up = {"upsample_kernel_size": 2, **common}
        self.encoders = nn.ModuleList(
            [UnetrBasicBlock(in_channels=in_channels, out_channels=feature_size, stride=1, **common)]
        )
        for level in range(1, steps):
            self.encoders.append(
                UnetrPrUpBlock(
                    in_channels=hidden_size,
                    out_channels=feature_size << level,
                    num_layer=steps - level - 1,
                    stride=1,
                    conv_block=conv_block,
                    **up,
                )
            )
        self.decoders = nn.ModuleList(
            UnetrUpBlock(
                in_channels=hidden_size if level == steps - 1 else feature_size << (level + 1),
                out_channels=feature_size << level,
                **up,
            )
            for level in range(steps)
        )
        self.out = UnetOutBlock(spatial_dims, feature_size, out_channels)
        keep_less(allow_tiny_maps(self))
        monai_names = [(rf"encoder{i + 1}\.", f"encoders.{i}.") for i in range(steps)]
        monai_names += [(rf"decoder{i + 2}\.", f"decoders.{i}.") for i in range(steps)]
        accept_monai_weights(self, monai_names)

    @beside_metadata
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Image (B, in_channels, *size) of any size to logits (B, out_channels, *size)."""
        check_image(x, self.in_channels, self.spatial_dims, type(self).__name__)
        size = x.shape[2:]
        x = pad_to_multiple(x, self.patch_size)
        tokens, hidden_states, grid = self.vit.forward_tokens(x)

        def as_map(t: torch.Tensor) -> torch.Tensor:
            return t.transpose(1, 2).unflatten(2, grid)

        skips = [self._run(self.encoders[0], x)]
        skips += [self._run(encoder, as_map(hidden_states[tap])) for encoder, tap in zip(self.encoders[1:], self.taps)]
        out = as_map(self.vit.norm(tokens))
        for decoder, skip in zip(reversed(self.decoders), reversed(skips)):
            out = self._run(decoder, out, skip)
        return crop_to(self.out(out), size)

    def _run(self, block: nn.Module, *inputs: torch.Tensor) -> torch.Tensor:
        return recompute(block, *inputs) if self.use_checkpoint else block(*inputs)
