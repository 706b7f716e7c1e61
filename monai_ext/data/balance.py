"""Classes of unequal frequency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

__all__ = ["balanced_weights"]


def balanced_weights(items: Sequence[Mapping[Hashable, Any]], key: Hashable = "label") -> list[float]:
    """A weight for each item, so that a weighted sampler draws every class equally often; they add up to 1."""
    counts = Counter(item[key] for item in items)
    return [1 / (len(counts) * counts[item[key]]) for item in items]
