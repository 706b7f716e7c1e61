"""What all cases of a run share, and the lists that options are given as."""

from __future__ import annotations

from dataclasses import dataclass

import torch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class RunSettings:
    """Settings of any benchmark.

    Raises:
        ValueError: for a number that cannot be.
    """

    batch: int = 1
    device: str = "cpu"
    threads: int = 1
    repeats: int = 5
    max_seconds: float = 60.0

    # those that count something
    counts = ("batch", "threads", "repeats")

    def __post_init__(self) -> None:
        for name in self.counts:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number from 1 on, got {value!r}.")
        if (
            isinstance(self.max_seconds, bool)
            or not isinstance(self.max_seconds, (int, float))
            or self.max_seconds <= 0
        ):
            raise ValueError(f"max_seconds must be a positive number, got {self.max_seconds!r}.")


def parse_names(text: str, known: tuple[str, ...], field: str) -> list[str]:
    """``"a,b"`` as ``["a", "b"]``, each once.

    Raises:
        ValueError: for none, or one that is not known.
    """
    names = list(dict.fromkeys(word.strip() for word in str(text).split(",") if word.strip()))
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise ValueError(f"{field} must be some of {', '.join(known)}; got {wrong[0] if wrong else text!r}.")
    return names


def parse_counts(text: str, field: str) -> list[int]:
    """``"64,96"`` as ``[64, 96]``, each once.

    Raises:
        ValueError: for anything else than whole numbers from 1 on.
    """
    words = [word.strip() for word in str(text).strip("()[]").split(",") if word.strip()]
    if not words or not all(word.isascii() and word.isdigit() and int(word) for word in words):
        raise ValueError(f"{field} must be whole numbers from 1 on, such as 64,96; got {text!r}.")
    return list(dict.fromkeys(map(int, words)))
