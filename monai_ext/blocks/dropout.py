"""Dropout of a network that is already built."""

from __future__ import annotations

from typing import TypeVar

import torch.nn as nn
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["set_dropout"]

Network = TypeVar("Network", bound=nn.Module)


def set_dropout(network: Network, rate: float) -> Network:
    """Give every dropout layer the same rate, and the network back; it has no effect outside of training.

    Dropout of attention weights and stochastic depth stay as they are: they are no layers of that kind.

    Raises:
        ValueError: for a rate that is no probability, or a network without a dropout layer.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"dropout must lie between 0 and 1, got {rate}.")
    layers = [module for module in network.modules() if isinstance(module, _DropoutNd)]
    if not layers:
        raise ValueError(f"{type(network).__name__} has no dropout layer whose rate could be {rate}.")
    for layer in layers:
        layer.p = rate
    return network
