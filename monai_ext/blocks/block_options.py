"""What a transformer block has beside its mixer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn as nn
from monai.networks.blocks import MLPBlock

from monai_ext.blocks.kan import KANMLP
from monai_ext.blocks.local_concentration import ConditionalPositions, LocalConcentration

MLPS = ("mlp", "kan")


class NormedConcentration(nn.Module):
    """``module(norm(x))``: the branch that a block adds.

    Args:
        dim: channels of a token.
        spatial_dims: 2 or 3.
    """

    def __init__(self, dim: int, spatial_dims: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.module = LocalConcentration(dim, spatial_dims)

    def forward(self, x: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
        """Tokens (B, N, C) of a grid to tokens (B, N, C)."""
        return self.module(self.norm(x), grid)


class LayerScale(nn.Module):
    """Each channel times a learnt factor, which begins at ``initial`` (Touvron et al., CaiT, 2021).

    Args:
        dim: channels of a token.
        initial: the factors at the start.
    """

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((dim,), float(initial)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


@dataclass(frozen=True)
class BlockOptions:
    """What a block has beside its mixer, as a config gives it: ``"block": {"mlp": "kan"}``.

    Attributes:
        mlp: the feed-forward network: ``"mlp"``, or ``"kan"``, two Kolmogorov-Arnold layers (MedViTV2, whose inner
            width is twice the outer: set ``mlp_ratio`` or ``mlp_dim`` to it, since a layer has eight times the
            weights of a linear one).
        conditional_position: depthwise convolutions with a residual: 1 or true for one before the mixer, 2 for
            another one before the feed-forward network (L2ViT's blocks of global and of local attention).
        local_concentration: a norm and two depthwise convolutions, with a residual, between mixer and feed-forward
            network (L2ViT).
        layer_scale: what a learnt factor of each channel begins with, by which mixer and feed-forward network come in;
            None for no factors. With a small one a block begins as the identity, and the network learns as fast as
            the convolutions around it.

    Raises:
        ValueError: for an unknown feed-forward network, another number of positions, or a scale that is no number.
    """

    mlp: str = "mlp"
    conditional_position: int = 0
    local_concentration: bool = False
    layer_scale: float | None = None

    def __post_init__(self) -> None:
        if self.mlp not in MLPS:
            raise ValueError(f"unknown mlp {self.mlp!r}; known ones: {', '.join(MLPS)}.")
        if self.conditional_position not in (0, 1, 2):
            raise ValueError(f"conditional_position must be 0, 1 or 2, got {self.conditional_position!r}.")
        if self.layer_scale is not None and not _is_number(self.layer_scale):
            raise ValueError(f"layer_scale must be a number or null, got {self.layer_scale!r}.")

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> BlockOptions:
        """The options that a config gives; None for none.

        Raises:
            ValueError: for an unknown option.
        """
        known = [field.name for field in fields(cls)]
        unknown = [key for key in options or {} if key not in known]
        if unknown:
            raise ValueError(f"a block has no option {', '.join(map(repr, unknown))}; its options: {', '.join(known)}.")
        return cls(**(options or {}))

    def feed_forward(self, dim: int, mlp_dim: int, dropout_rate: float, dropout_mode: str = "vit") -> nn.Module:
        """The feed-forward network; the mode is that of MONAI's ``MLPBlock``."""
        if self.mlp == "kan":
            return KANMLP(dim, mlp_dim, dropout_rate)
        return MLPBlock(dim, mlp_dim, dropout_rate, dropout_mode=dropout_mode)

    def scale(self, dim: int) -> nn.Module:
        """By which a branch of the block comes in."""
        return nn.Identity() if self.layer_scale is None else LayerScale(dim, self.layer_scale)

    def convolutions(self, dim: int, spatial_dims: int) -> tuple[nn.Module | None, nn.Module | None, nn.Module | None]:
        """The positions before the mixer, the local concentration and the positions behind it, where asked for."""
        return (
            ConditionalPositions(dim, spatial_dims) if self.conditional_position else None,
            NormedConcentration(dim, spatial_dims) if self.local_concentration else None,
            ConditionalPositions(dim, spatial_dims) if self.conditional_position == 2 else None,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


PLAIN = BlockOptions()  # nothing beside the mixer and an MLP
