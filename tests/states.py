"""Comparing what checkpoints hold."""

from __future__ import annotations

from typing import Any

import torch


def differing(first: Any, second: Any, name: str = "state") -> list[str]:
    """Where two nested states differ, bit for bit."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [name]
    if isinstance(first, dict):
        assert list(first) == list(second), name
        return [found for key in first for found in differing(first[key], second[key], f"{name}.{key}")]
    if isinstance(first, (list, tuple)):
        assert len(first) == len(second), name
        return [found for i, (a, b) in enumerate(zip(first, second)) for found in differing(a, b, f"{name}.{i}")]
    return [] if first == second else [f"{name}: {first} {second}"]
