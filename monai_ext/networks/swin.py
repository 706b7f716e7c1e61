"""A Swin transformer whose attention is an option: encoder and classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.networks.blocks import PatchEmbed
from monai.utils import ensure_tuple_rep

from monai_ext.blocks.block_options import BlockOptions
from monai_ext.blocks.conv_stem import ConvStem
from monai_ext.blocks.image_size import check_image, check_widths
from monai_ext.blocks.metadata import beside_metadata
from monai_ext.blocks.patch_merging import PATCH_MERGING
from monai_ext.blocks.swin_stage import SwinStage, accept_monai_stages
from monai_ext.mixers import MixerSpec, build_mixer, count_alike, spread_mixers

STEMS = ("patch", "conv")


class MixerSwin(nn.Module):
    """Swin transformer (Liu et al., 2021) with any mixer, any number of stages and images of any size.

    With ``mixer="softmax"`` and four stages it takes the state dict of MONAI's ``SwinTransformer`` as it is and gives
    the same outputs.

    Args:
        in_channels: channels of the image.
        patch_size: size of a patch.
        depths: number of blocks of each stage.
        num_heads: heads of each stage.
        window_size: tokens along each axis of a window; a small grid clips it.
        mixer: a name, a dict with ``name`` and options, or a list with one entry a stage (an entry may be a list with
            one mixer a block). A mixer that takes a score bias gets relative positions and shifted windows, any other
            runs unshifted.
        feature_size: channels of the first stage; each stage doubles them.
        mlp_ratio: inner width of the feed-forward networks over the stage's.
        qkv_bias: a bias in the projection to queries, keys and values.
        drop_rate: dropout of tokens, of the mixers' outputs and inside the feed-forward networks.
        attn_drop_rate: dropout of attention weights, where a mixer has them.
        dropout_path_rate: stochastic depth of the last block; it grows linearly from 0.
        normalize: layer norm, without parameters, of the hidden states that come out.
        patch_norm: layer norm after the patch embedding.
        use_checkpoint: recompute each block in the backward instead of keeping its activations.
        spatial_dims: 2 or 3.
        downsample: ``"merging"``, ``"mergingv2"`` (MONAI's orders), or ``"merging_before_1_5"`` for checkpoints
            trained with MONAI's ``"merging"`` before release 1.5.
        use_v2: begin each stage with a residual convolutional block (Swin UNETR v2).
        classification: add a norm, the mean over the tokens and a linear head.
        num_classes: classes of the head.
        block: further parts of each block, see :class:`monai_ext.blocks.block_options.BlockOptions`.
        stem: ``"patch"``, the linear embedding of patches, or ``"conv"``, convolutions of stride 2 with residual blocks
            between them (:class:`monai_ext.blocks.conv_stem.ConvStem`): for few images and short trainings.
        hidden_states: whether a classifier gives them beside its logits; training engines want the logits alone.
        dropout: another name of ``drop_rate``, which it replaces: what MONAI calls it elsewhere, and what MONAI Label
            sets to score by uncertainty.

    Raises:
        ValueError: for an unknown mixer, option, part of a block or downsampling, lists of unequal length, a width
            that the heads do not divide, a rate outside 0 to 1, or an input of other channels or dimensions.
    """

    def __init__(
        self,
        in_channels: int,
        patch_size: Sequence[int] | int = 2,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: Sequence[int] | int = 7,
        mixer: MixerSpec | Sequence[MixerSpec | Sequence[MixerSpec]] = "softmax",
        feature_size: int = 24,
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
        classification: bool = False,
        num_classes: int = 2,
        block: Mapping[str, Any] | None = None,
        stem: str = "patch",
        hidden_states: bool = True,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        check_widths(in_channels=in_channels, feature_size=feature_size, num_classes=num_classes)
        if not hidden_states and not classification:
            raise ValueError("hidden_states=False leaves an encoder nothing to give: set classification.")
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        drop_rate = drop_rate if dropout is None else dropout
        rates = {"drop_rate": drop_rate, "attn_drop_rate": attn_drop_rate, "dropout_path_rate": dropout_path_rate}
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {rate}.")
        if len(depths) != len(num_heads):
            raise ValueError(f"depths {tuple(depths)} and num_heads {tuple(num_heads)} differ in length.")
        if not depths or min(depths) < 1:
            raise ValueError(f"depths must name at least one stage, each of at least one block, got {tuple(depths)}.")
        if stem not in STEMS:
            raise ValueError(f"unknown stem {stem!r}; known ones: {', '.join(STEMS)}.")
        if stem == "conv" and patch_norm:
            raise ValueError("patch_norm belongs to stem 'patch': stem 'conv' has norms of its own.")
        if downsample not in PATCH_MERGING:
            raise ValueError(f"unknown downsample {downsample!r}; known ones: {', '.join(PATCH_MERGING)}.")
        self.in_channels, self.spatial_dims, self.normalize = in_channels, spatial_dims, normalize
        self.feature_size, self.hidden_states = feature_size, hidden_states
        self.patch_size = ensure_tuple_rep(patch_size, spatial_dims)
        if stem == "conv":
            self.patch_embed = ConvStem(in_channels, feature_size, self.patch_size, spatial_dims)
        else:
            norm = nn.LayerNorm if patch_norm else None
            self.patch_embed = PatchEmbed(self.patch_size, in_channels, feature_size, norm, spatial_dims)
        self.pos_drop = nn.Dropout(drop_rate)
        window, options = ensure_tuple_rep(window_size, spatial_dims), BlockOptions.of(block)
        paths = torch.linspace(0, dropout_path_rate, sum(depths)).tolist()
        self.stages = nn.ModuleList()
        spread = spread_mixers(mixer, depths)
        numbered = count_alike([spec for specs in spread for spec in specs])
        for i in range(len(depths)):
            first = sum(depths[:i])
            mixers = [
                build_mixer(
                    spec,
                    feature_size << i,
                    num_heads[i],
                    spatial_dims,
                    qkv_bias=qkv_bias,
                    attn_drop_rate=attn_drop_rate,
                    grid=window,
                    layer=layer,
                )
                for layer, spec in numbered[first : first + depths[i]]
            ]
            self.stages.append(
                SwinStage(
                    mixers,
                    window,
                    PATCH_MERGING[downsample],
                    paths[first : first + depths[i]],
                    mlp_ratio,
                    drop_rate,
                    use_v2,
                    use_checkpoint,
                    options,
                )
            )
        self.num_features = feature_size << len(depths)
        self.classification = classification
        if classification:
            self.norm = nn.LayerNorm(self.num_features)
            self.classification_head = nn.Linear(self.num_features, num_classes)
        accept_monai_stages(self, len(depths))

    @beside_metadata
    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Run the network.

        Args:
            x: image (B, in_channels, *size), any size; padded with zeros to whole patches, as in MONAI.

        Returns:
            the hidden states: the embedded patches and the map after each stage, (B, C * 2^i, *grid / 2^i). A
            classifier gives the logits (B, num_classes) and, unless ``hidden_states`` is False, the hidden states.
        """
        check_image(x, self.in_channels, self.spatial_dims, type(self).__name__)
        x = self.pos_drop(self.patch_embed(x))
        hidden_states = [self._normalized(x, 0)] if self.hidden_states else []
        for number, stage in enumerate(self.stages, start=1):
            x = stage(x)
            if self.hidden_states:
                hidden_states.append(self._normalized(x, number))
        if self.classification:
            logits = self.classification_head(self.norm(x.flatten(2).transpose(1, 2)).mean(1))
            return (logits, hidden_states) if self.hidden_states else logits
        return hidden_states

    def _normalized(self, x: torch.Tensor, level: int) -> torch.Tensor:
        if not self.normalize:
            return x
        # not the shape's channels, which a trace would take for something that varies
        return F.layer_norm(x.movedim(1, x.ndim - 1), [self.feature_size << level]).movedim(x.ndim - 1, 1)
