"""Batch norm that also takes a single value."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F


def batch_norm(x: torch.Tensor, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> torch.Tensor:
    """The norm of a map (B, C, *grid), by the running statistics where there is one value a channel.

    One value has no variance, at which PyTorch raises in training: what is known from before serves.
    """
    return by_running_statistics(x, norm) if is_single(x, norm) else norm(x)


def is_single(x: torch.Tensor, norm: nn.Module) -> bool:
    """Whether the norm is in training and meets one value a channel."""
    return norm.training and x.numel() == x.shape[1]


def by_running_statistics(x: torch.Tensor, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> torch.Tensor:
    """The norm as in evaluation."""
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, eps=norm.eps)
