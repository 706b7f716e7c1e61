"""Splits by a seeded hash of a name: a case's place does not depend on which others are there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

__all__ = ["place", "split_at"]


def place(name: str, seed: int) -> float:
    """Where a name falls, from 0 to below 1."""
    return int(hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()[:8], 16) / 2**32


def split_at(u: float, fractions: Mapping[str, float]) -> str:
    """The split at a place; `fractions` has train and validation, and the rest is test."""
    if u < fractions["train"]:
        return "train"
    return "validation" if u < round(fractions["train"] + fractions["validation"], 12) else "test"
