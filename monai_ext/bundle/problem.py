"""What a check of a bundle says."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Problem", "Skipped"]


@dataclass(frozen=True)
class Problem:
    """What is wrong, and how to mend it."""

    text: str
    mend: str


class Skipped(Exception):
    """A check that cannot be made, with the reason."""
