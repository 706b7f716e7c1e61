from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_ext.data import load_manifest
from monai_ext.data.phantom import draw_phantom

NAME = "task04_hippocampus"


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of 12 cases; read it, never write to it."""
    return draw_phantom(NAME, tmp_path_factory.mktemp("phantom"), cases=12, seed=3, progress=False)


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes a copy of the shipped manifest, named `mine`, with some fields replaced."""

    def write(**changes: Any) -> Path:
        content = {**load_manifest(NAME).content, "name": "mine", **changes}
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
        return path

    return write
