"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NotChecked", "Problem"]


@dataclass(frozen=True)
class Problem:
    """Something that is wrong: what, and how to mend it."""

    what: str
    mend: str


class NotChecked(Exception):  # no error: the check cannot be done here
    """Raised by a check that cannot be done here; its text says why."""
