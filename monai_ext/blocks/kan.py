"""A feed-forward network of learnt functions: FasterKAN, as in MedViTV2 (Manzari et al., 2025)."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_ext.ops.kan import kan_linear

# of the grid of bumps: from, to, points, width
LOW, HIGH, POINTS, WIDTH = -2.0, 2.0, 8, 0.33


class KANLayer(nn.Module):
    """Layer norm, eight bumps a channel, a linear map without bias (see ``monai_ext.ops.kan``).

    Args:
        dim: input channels.
        out_dim: output channels.
    """

    grid: torch.Tensor

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(POINTS * dim, out_dim, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)
        self.register_buffer("grid", torch.linspace(LOW, HIGH, POINTS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return kan_linear(self.norm(x), self.linear.weight, self.grid, WIDTH)


class KANMLP(nn.Module):
    """Two KAN layers in the place of a transformer block's feed-forward network (MedViTV2, arXiv 2502.13693).

    A layer has eight times the weights and multiplications of a linear one between the same widths, which is why the
    authors' inner width is twice the outer and not four times. What it keeps for the backward is of the size of its
    input, not eight times that. Departure from the authors' code, which reads the channels of a map in the order of
    its memory and so mixes them with positions: a token's channels are its own.

    Args:
        dim: channels of a token.
        hidden_dim: inner width.
        dropout_rate: dropout after each layer, in training (the authors have none).

    Raises:
        ValueError: for no channels, or a dropout that is no probability.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout_rate: float = 0.0) -> None:
        super().__init__()
        if dim < 1 or hidden_dim < 1:
            raise ValueError(f"dim and hidden_dim must be at least 1, got {dim} and {hidden_dim}.")
        if not 0 <= dropout_rate <= 1:
            raise ValueError(f"dropout_rate must lie between 0 and 1, got {dropout_rate}.")
        self.layers = nn.ModuleList([KANLayer(dim, hidden_dim), KANLayer(hidden_dim, dim)])
        self.drop = nn.Dropout(dropout_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(.., C) to (.., C)."""
        for layer in self.layers:
            x = self.drop(layer(x))
        return x
