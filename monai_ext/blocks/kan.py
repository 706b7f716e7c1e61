"""Kolmogorov-Arnold layers as a feed-forward network (Liu et al., KAN, arXiv 2404.19756, 2024; FasterKAN, as used in
MedViTV2: Manzari et al., arXiv 2502.13693, 2025).

Legend: B batch, N tokens, C channels in, O channels out, G points of the grid of basis functions.
"""

from __future__ import annotations

import torch
import torch.nn as nn
from torch.utils.checkpoint import checkpoint


class KANLayer(nn.Module):
    """Learnt functions of one variable on every edge from C to O channels, as sums of G bumps.

    ``y_o = sum_c sum_g w_ocg phi((n(x)_c - t_g) / h)`` with ``phi(u) = 1 - tanh(u)^2``, a layer norm n and points t_g
    from -2 to 2.

    Args:
        in_channels: C.
        out_channels: O.
        grid_points: G.
        width: h, in units of the normalised channels.
    """

    def __init__(self, in_channels: int, out_channels: int, grid_points: int = 8, width: float = 0.33) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_channels)
        self.width = width
        self.register_buffer("points", torch.linspace(-2, 2, grid_points), persistent=False)
        self.linear = nn.Linear(in_channels * grid_points, out_channels, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) to (..., O)."""
        bumps = 1 - torch.tanh((self.norm(x).unsqueeze(-1) - self.points.to(x.dtype)) / self.width).square()
        return self.linear(bumps.flatten(-2))


class KANMLP(nn.Module):
    """Two Kolmogorov-Arnold layers in the place of a transformer's MLP.

    A layer's input grows by G for its linear map; that copy is made anew in the backward instead of being kept.

    Args:
        dim: channels of a token.
        hidden_dim: channels between the layers.
        dropout_rate: dropout behind each layer.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout_rate: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList([KANLayer(dim, hidden_dim), KANLayer(hidden_dim, dim)])
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, C) to tokens (B, N, C)."""
        for layer in self.layers:
            if torch.is_grad_enabled() and not torch.compiler.is_compiling():
                x = checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x)
            x = self.dropout(x)
        return x
