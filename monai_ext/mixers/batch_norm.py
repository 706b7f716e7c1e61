"""Batch norm that also takes a single value."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F


def batch_norm(x: torch.Tensor, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> torch.Tensor:
    """The norm of a map (B, C, *grid), by the running statistics where there is one value a channel.

    One value has no variance, at which PyTorch raises in training: what is known from before serves.
    """
    if norm.training and x.numel() == x.shape[1]:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, eps=norm.eps)
    return norm(x)
