"""A network that predicts what is to be added to its input."""

from __future__ import annotations

import torch
import torch.nn as nn


class ResidualNetwork(nn.Module):
    """y = x + network(x).

    Zhang et al., *Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising* (IEEE TIP 2017): the
    network learns the noise, which is nearer to its initial outputs than the image. The state dict is the network's
    with ``network.`` before every key.

    Args:
        network: gives as many channels as it takes, on the same grid.

    Raises:
        ValueError: for an output of another shape than the input; it would be broadcast.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        options = getattr(network, "options", None)
        if options is not None:  # what checkpoints tell of a network
            self.options = options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.network(x)
        if out.shape != x.shape:
            raise ValueError(
                f"the network turns {tuple(x.shape)} into {tuple(out.shape)}, a residual needs the input's shape; "
                "give it as many out_channels as in_channels."
            )
        return x + out
