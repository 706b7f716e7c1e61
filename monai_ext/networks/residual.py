"""A network that predicts what is to be added to its input."""

from __future__ import annotations

import torch
import torch.nn as nn

from monai_ext.blocks.dropout import set_dropout


class ResidualNetwork(nn.Module):
    """y = x + network(x).

    Zhang et al., *Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising* (IEEE TIP 2017): the
    network learns the noise, which is nearer to its initial outputs than the image. The state dict is the network's
    with ``network.`` before every key.

    Args:
        network: gives as many channels as it takes, on the same grid.
        dropout: rate of the network's dropout layers, in place of its own; what MONAI Label sets to score by
            uncertainty.

    Raises:
        ValueError: for another number of channels than the input's; they would be broadcast. For a dropout that is no
            probability.
    """

    def __init__(self, network: nn.Module, dropout: float | None = None) -> None:
        super().__init__()
        self.network = network if dropout is None else set_dropout(network, dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.network(x)
        if out.shape[1] != x.shape[1]:
            raise ValueError(
                f"the network gives {out.shape[1]} channels for {x.shape[1]}, a residual needs as many as the input "
                "has; make out_channels and in_channels equal."
            )
        return x + out
