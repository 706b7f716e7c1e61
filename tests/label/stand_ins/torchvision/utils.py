"""The two names that MONAI Label imports; it draws with them, which no test does."""

from __future__ import annotations

from typing import Any


def make_grid(*args: Any, **kwargs: Any) -> None:
    raise NotImplementedError("a stand-in: install torchvision")


def save_image(*args: Any, **kwargs: Any) -> None:
    raise NotImplementedError("a stand-in: install torchvision")
