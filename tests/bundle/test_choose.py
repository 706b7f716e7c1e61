"""Choices follow the data and the memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from monai_ext.bundle import choose as module
from monai_ext.bundle.choose import Request, choose
from monai_ext.bundle.files_seen import Header
from monai_ext.bundle.survey import Survey
from tests.bundle.test_splits import cases

LEVEL = {"low": 0.0, "high": 900.0, "least": 0.0, "most": 1000.0}


def survey_of(shape: tuple[int, ...], spacing: tuple[float, ...], number: int = 30, **more: Any) -> Survey:
    header = Header(len(shape), shape, spacing, 1, "float32", np.eye(4), shape, "nifti")
    found = Survey(cases(number), [header] * number, len(shape), 1, intensity=dict(LEVEL), **more)
    found.values.update({0: 900, 1: 100})
    return found


@pytest.fixture
def by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the estimate, which takes a second a network: bytes and operations by width and size."""

    def estimate(network: dict[str, Any], batch: int, channels: int, size: list[int]) -> tuple[float, float]:
        inner = network.get("network", network)
        return 1e9 + 60.0 * batch * inner["feature_size"] * float(np.prod(size)), 1e9

    monkeypatch.setattr(module, "training_memory", estimate)


@pytest.mark.usefixtures("by_size")
def test_less_memory_makes_a_smaller_network() -> None:
    found = survey_of((200, 200, 160), (1, 1, 1))
    plans = [choose(found, Request("segmentation", gb * 1e9, "cuda"), ["organ"], 24) for gb in (80, 16, 6, 4)]
    sizes = [plan.network["feature_size"] * np.prod(plan.size) * plan.batch for plan in plans]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 4 * sizes[-1]
    assert plans[0].crop and "of the 80 GB (the GPU)" in plans[0].reasons["memory"]
    with pytest.raises(ValueError, match="the smallest network would take"):
        choose(found, Request("segmentation", 0.5e9, "cuda"), ["organ"], 24)


@pytest.mark.usefixtures("by_size")
def test_the_patch_fits_the_image_and_the_window_the_patch() -> None:
    for shape, spacing in (((35, 50, 36), (1, 1, 1)), ((320, 320, 24), (0.5, 0.5, 5)), ((9, 11, 7), (2, 2, 2))):
        plan = choose(survey_of(shape, spacing), Request("segmentation", 16e9, "cuda"), ["a", "b"], 24)
        network = plan.network
        patch = network["patch_size"] if isinstance(network["patch_size"], list) else [network["patch_size"]] * 3
        stages = len(network["depths"])
        for size, voxels, step, window in zip(plan.size, shape, patch, network["window_size"]):
            assert size % (step << stages) == 0
            assert size < voxels + (step << stages)
            assert window <= 8
        assert plan.spacing == list(spacing)
    assert network["out_channels"] == 3


@pytest.mark.usefixtures("by_size")
def test_coarse_slices() -> None:
    plan = choose(survey_of((320, 320, 24), (0.5, 0.5, 5)), Request("segmentation", 16e9, "cuda"), ["a"], 24)
    assert plan.anisotropic == 2 and plan.network["patch_size"] == [2, 2, 1]
    assert plan.size[2] < plan.size[0] / 2
    assert "flat" in plan.reasons["patch"]


@pytest.mark.usefixtures("by_size")
def test_intensities() -> None:
    request = Request("segmentation", 16e9, "cuda")
    found = survey_of((40, 40, 40), (1, 1, 1))
    names = [step["_target_"].rpartition(".")[2] for step in choose(found, request, ["a"], 24).normalise]
    assert names == ["ScaleIntensityRangePercentilesd", "NormalizeIntensityd"]
    found.intensity |= {"least": -1024.0, "most": 3000.0, "foreground_low": -57.0, "foreground_high": 181.0}
    (window,) = choose(found, request, ["a"], 24).normalise
    assert (window["a_min"], window["a_max"]) == (-60, 190)
    found.whole = False  # no Hounsfield units then
    assert len(choose(found, request, ["a"], 24).normalise) == 2


@pytest.mark.usefixtures("by_size")
def test_values_and_data_in_memory() -> None:
    found = survey_of((200, 200, 200), (1, 1, 1), number=300)
    found.values.clear()
    found.values.update({0: 9, 2: 1, 7: 1})
    plan = choose(found, Request("segmentation", 8e9, "cpu"), ["a", "b"], 240)
    assert plan.values == [0, 2, 7] and plan.class_names == ["background", "a", "b"]
    assert 0 < plan.cache < 0.5  # 300 pairs of 32 MB each
    assert f"{plan.cache:.0%} of them are kept" in plan.reasons["cache"]


@pytest.mark.usefixtures("by_size")
def test_a_classifier_s_volumes_become_coarser() -> None:
    found = survey_of((400, 400, 200), (0.5, 0.5, 1))
    found.classes.update({"well": 20, "ill": 10})
    plan = choose(found, Request("classification", 8e9, "cuda"), ["ill", "well"], 24)
    assert max(plan.size) <= 128 and plan.spacing is not None
    extent = np.asarray(plan.size) * plan.spacing
    assert (extent >= np.asarray([200, 200, 200]) - 1e-6).all()
