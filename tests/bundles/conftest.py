"""Phantoms for the bundles, and one tiny network of the hippocampus bundle, trained for two epochs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from monai.utils import set_determinism

from monai_ext.data import load_manifest
from monai_ext.data.phantom import PHANTOMS, draw_phantom
from tests.bundles.running import ROOT, TINY, data_of, run_training


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """A workflow sets seeds, and puts its bundle on the path."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    set_determinism(None)


@pytest.fixture(scope="session")
def phantom_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """A phantom of the data set that a bundle trains on: 4 cases, 2 to train on; 10 where the cases are rows of arrays.

    Read it, never write to it.
    """
    drawn: dict[str, Path] = {}

    def draw(bundle: Path) -> Path:
        name = data_of(bundle)
        if name not in drawn:
            size = 96 if PHANTOMS[name].size else None  # of pictures
            cases = 10 if load_manifest(name).arrays else 4  # every class in every split
            drawn[name] = draw_phantom(name, tmp_path_factory.mktemp(name), cases, seed=1, size=size, progress=False)
        return drawn[name]

    return draw


@pytest.fixture(scope="session")
def hippocampus() -> Path:
    """The bundle."""
    return ROOT / "bundles" / "hippocampus_mri_segmentation"


@pytest.fixture(scope="session")
def phantom(phantom_of: Callable[[Path], Path], hippocampus: Path) -> Path:
    """Its phantom."""
    return phantom_of(hippocampus)


@pytest.fixture(scope="session")
def trained(phantom: Path, hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of the tiny network wrote, with model.pt; read it, never write to it."""
    return run_training(hippocampus, phantom, tmp_path_factory.mktemp("trained"), **TINY)
