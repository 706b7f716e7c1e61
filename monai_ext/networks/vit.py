"""A vision transformer whose attention is an option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from monai.utils import ensure_tuple_rep

from monai_ext.blocks.block_options import BlockOptions
from monai_ext.blocks.image_size import check_image, check_widths
from monai_ext.blocks.metadata import beside_metadata
from monai_ext.blocks.mixer_block import MixerBlock
from monai_ext.blocks.patch_embedding import TokenEmbedding
from monai_ext.blocks.recompute import recompute
from monai_ext.mixers import MixerSpec, build_mixer, count_alike, spread_mixers

POOLING = ("auto", "cls", "mean")


class MixerViT(nn.Module):
    """ViT (Dosovitskiy et al., 2020) with any mixer, for images of any size.

    With ``mixer="softmax"`` it takes the state dict of MONAI's ``ViT`` as it is and gives the same outputs.

    Args:
        in_channels: channels of the image.
        img_size: size for which the positions are made; other sizes interpolate them.
        patch_size: size of a patch.
        hidden_size: channels of a token.
        mlp_dim: inner width of the feed-forward networks.
        num_layers: number of blocks.
        num_heads: heads of each mixer.
        mixer: a name, a dict with ``name`` and options, or a list: its length divides ``num_layers``, and each entry
            serves an equal share of consecutive blocks.
        proj_type: ``"conv"`` or ``"perceptron"``.
        pos_embed_type: ``"learnable"``, ``"sincos"``, ``"fourier"`` or ``"none"``.
        classification: add a head, and give its logits instead of the tokens.
        num_classes: classes of the head.
        pool: what the head reads. ``"cls"``: a class token, which mixers that read the grid cannot have;
            ``"mean"``: the mean of the tokens; ``"auto"``: the first where possible.
        dropout_rate: dropout of tokens, of attention weights and inside the feed-forward networks.
        spatial_dims: 2 or 3.
        post_activation: ``"Tanh"`` puts a tanh behind the head, as MONAI does by default; anything else nothing.
        qkv_bias: a bias in the projection to queries, keys and values.
        use_checkpoint: recompute each block in the backward instead of keeping its activations.
        num_registers: further learnt tokens that take part in every block and are left out of what comes out (Darcet
            et al., 2023); like a class token, not for mixers that read the grid.
        block: further parts of each block, see :class:`monai_ext.blocks.block_options.BlockOptions`.
        hidden_states: give them beside the output; False gives the output alone, as training engines want it.
        dropout: another name of ``dropout_rate``, which it replaces: what MONAI calls it elsewhere, and what MONAI
            Label sets to score by uncertainty.

    Raises:
        ValueError: for an unknown mixer, option or part of a block, a width that the heads do not divide, a bad
            dropout rate, a class token or registers where something reads the grid, or an input of other channels or
            dimensions.
    """

    def __init__(
        self,
        in_channels: int,
        img_size: Sequence[int] | int,
        patch_size: Sequence[int] | int,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_layers: int = 12,
        num_heads: int = 12,
        mixer: MixerSpec | Sequence[MixerSpec] = "softmax",
        proj_type: str = "conv",
        pos_embed_type: str = "learnable",
        classification: bool = False,
        num_classes: int = 2,
        pool: str = "auto",
        dropout_rate: float = 0.0,
        spatial_dims: int = 3,
        post_activation: str | None = "Tanh",
        qkv_bias: bool = False,
        use_checkpoint: bool = False,
        num_registers: int = 0,
        block: Mapping[str, Any] | None = None,
        hidden_states: bool = True,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        check_widths(in_channels=in_channels, hidden_size=hidden_size, mlp_dim=mlp_dim, num_classes=num_classes)
        self.hidden_states = hidden_states
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        dropout_rate = dropout_rate if dropout is None else dropout
        if not 0 <= dropout_rate <= 1:
            raise ValueError(f"dropout_rate must lie between 0 and 1, got {dropout_rate}.")
        if pool not in POOLING:
            raise ValueError(f"unknown pool {pool!r}; known ones: {', '.join(POOLING)}.")
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.use_checkpoint = use_checkpoint
        options = BlockOptions.of(block)
        self.patch_embedding = TokenEmbedding(
            in_channels,
            ensure_tuple_rep(img_size, spatial_dims),
            ensure_tuple_rep(patch_size, spatial_dims),
            hidden_size,
            proj_type,
            pos_embed_type,
            dropout_rate,
        )
        self.blocks = nn.ModuleList(
            MixerBlock(
                build_mixer(
                    spec,
                    hidden_size,
                    num_heads,
                    spatial_dims,
                    qkv_bias=qkv_bias,
                    attn_drop_rate=dropout_rate,
                    grid=self.patch_embedding.grid,
                    layer=layer,
                ),
                mlp_dim,
                dropout_rate,
                options,
            )
            for layer, spec in count_alike(_one_per_layer(mixer, num_layers))
        )
        reads_grid = any(b.mixer.reads_grid or b.reads_grid for b in self.blocks)
        if num_registers < 0 or (num_registers and reads_grid):
            raise ValueError(
                f"num_registers {num_registers}: "
                + (
                    "registers are tokens outside of the grid, which the mixer or the block reads: use 0."
                    if num_registers > 0
                    else "it cannot be below 0."
                )
            )
        self.registers = nn.Parameter(0.02 * torch.randn(1, num_registers, hidden_size)) if num_registers else None
        self.norm = nn.LayerNorm(hidden_size)
        self.classification = classification
        if classification:
            if pool == "cls" and reads_grid:
                raise ValueError(
                    f"pool='cls' adds a token to the grid, which the mixer {mixer!r} or the block reads: use 'mean'."
                )
            if pool == "cls" or (pool == "auto" and not reads_grid):
                self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
            else:
                self.cls_token = None
            head = nn.Linear(hidden_size, num_classes)
            self.classification_head = nn.Sequential(head, nn.Tanh()) if post_activation == "Tanh" else head

    @beside_metadata
    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]]:
        """Run the network.

        Args:
            x: image (B, in_channels, *size), any size.

        Returns:
            the normalised tokens (B, N, hidden_size), or the logits (B, num_classes) of a classifier; and the tokens
            after each block, unless ``hidden_states`` is False.
        """
        tokens, hidden_states, _ = self.forward_tokens(x)
        tokens = self.norm(tokens)
        if self.classification:
            tokens = self.classification_head(tokens[:, 0] if self.cls_token is not None else tokens.mean(1))
        return (tokens, hidden_states) if self.hidden_states else tokens

    def forward_tokens(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], tuple[int, ...]]:
        """The tokens before the last norm, those after each block, and their grid."""
        check_image(x, self.in_channels, self.spatial_dims, type(self).__name__)
        tokens, grid = self.patch_embedding(x)
        if self.classification and self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        last = tokens.shape[1]
        if self.registers is not None:
            tokens = torch.cat([tokens, self.registers.expand(tokens.shape[0], -1, -1)], 1)
        hidden_states = []
        for block in self.blocks:
            tokens = recompute(block, tokens, grid) if self.use_checkpoint else block(tokens, grid)
            hidden_states.append(tokens[:, :last])
        return tokens[:, :last], hidden_states, grid


def _one_per_layer(mixer: MixerSpec | Sequence[MixerSpec], num_layers: int) -> list[MixerSpec]:
    groups = len(mixer) if isinstance(mixer, Sequence) and not isinstance(mixer, str) else 1
    if groups < 1 or num_layers % groups:
        raise ValueError(f"{groups} mixers do not divide num_layers {num_layers} in equal shares: {mixer!r}.")
    return [spec for stage in spread_mixers(mixer, [num_layers // groups] * groups) for spec in stage]
