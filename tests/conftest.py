"""What every test shares: one thread, fixed seeds, and the real images where they are."""

from __future__ import annotations

import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_DATA_VARIABLE = "MONAI_EXT_REAL_DATA"

torch.set_num_threads(1)  # tests run side by side, and sums come out the same everywhere
hypothesis.settings.register_profile("monai_ext", deadline=None, derandomize=True)
hypothesis.settings.load_profile("monai_ext")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "real_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_data)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, one sub-folder a dataset; a test that asks for it is skipped where it is absent."""
    named = os.environ.get(REAL_DATA_VARIABLE)
    folder = Path(named).expanduser() if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data not found at {named or '../shared/data'}")
    return folder.resolve()
