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


@pytest.fixture(scope="session")
def fundus_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small made-up photographs in the layout of chase_db1; read them, never write to them."""
    root = tmp_path_factory.mktemp("fundus")
    return draw_phantom("chase_db1", root, cases=5, seed=1, size=160, progress=False)


@pytest.fixture(scope="session")
def exposures_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small made-up pairs in the layout of hagen2021; read them, never write to them."""
    return draw_phantom("hagen2021", tmp_path_factory.mktemp("exposures"), seed=1, size=96, progress=False)


@pytest.fixture(scope="session")
def smear_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small made-up smears in the layout of bccd; read them, never write to them."""
    return draw_phantom("bccd", tmp_path_factory.mktemp("smears"), cases=5, seed=1, size=240, progress=False)


@pytest.fixture(scope="session")
def gland_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few made-up shapes in the layout of adrenalmnist3d; read them, never write to them."""
    return draw_phantom("adrenalmnist3d", tmp_path_factory.mktemp("glands"), cases=10, seed=1, progress=False)
