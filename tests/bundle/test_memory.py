"""Amounts of memory, and what a training takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from monai_ext.bundle.memory import bytes_of, machine_memory, training_memory


@pytest.mark.parametrize(("text", "amount"), [("8GB", 8e9), ("7.5 GiB", 7.5 * 2**30), ("512mb", 512e6), ("1T", 1e12)])
def test_amounts(text: str, amount: float) -> None:
    assert bytes_of(text) == amount


@pytest.mark.parametrize("text", ["8", "", "GB", "-1GB", "8 bananas"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="--memory"):
        bytes_of(text)


def test_this_machine_has_some() -> None:
    assert 1e8 < machine_memory(torch.device("cpu")) < 1e14


@pytest.mark.slow
def test_the_estimate_is_near_what_a_bundle_s_training_takes(repository: Path) -> None:
    """The README of the bundle says 1.4 GB, as measured."""
    config = json.loads(
        (repository / "bundles/hippocampus_mri_segmentation/configs/train.json").read_text(encoding="utf-8")
    )
    memory, _ = training_memory(config["network_def"], config["batch_size"], 1, config["patch_size"])
    assert 1.2e9 < memory < 1.7e9


def test_a_mixer_that_cannot_is_a_mistake_of_the_user() -> None:
    network = {
        "_target_": "monai_ext.networks.MixerSwin",
        "in_channels": 1,
        "spatial_dims": 2,
        "mixer": "scattering_3d",
        "depths": [1],
        "num_heads": [1],
    }
    with pytest.raises(ValueError, match="cannot be built"):
        training_memory(network, 1, 1, [16, 16])
