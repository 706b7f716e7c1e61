"""Brightness and contrast of images that belong together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_ext.data.brightness import RandBrightnessContrastd


@pytest.fixture
def pair() -> dict[str, torch.Tensor]:
    clean = torch.rand(1, 5, 7, dtype=torch.float64)
    return {"image": clean + 0.1 * torch.randn(1, 5, 7, dtype=torch.float64), "label": clean}


def test_the_formula(pair: dict[str, torch.Tensor]) -> None:
    transform = RandBrightnessContrastd(["image", "label"], prob=1.0)
    transform.set_random_state(3)
    out = transform(pair)
    a, b = transform.gain, transform.offset
    added = b * a * pair["image"].mean()
    for key, image in pair.items():
        assert torch.allclose(out[key], (a * image + added).float(), atol=1e-6)
        assert out[key].dtype == torch.float32
    assert torch.allclose(out["image"] - out["label"], (a * (pair["image"] - pair["label"])).float(), atol=1e-6)


def test_how_much_and_how_often() -> None:
    transform = RandBrightnessContrastd("image", brightness=0.3, contrast=0.2)
    transform.set_random_state(0)
    gains, offsets, changed = [], [], []
    image = torch.linspace(0, 1, 6).reshape(1, 2, 3)
    for _ in range(3000):
        changed.append(not torch.equal(transform({"image": image})["image"], image))
        gains.append(transform.gain)
        offsets.append(transform.offset)
    assert np.mean(changed) == pytest.approx(0.9, abs=0.02)
    for drawn, middle, reach in ((gains, 1.0, 0.2), (offsets, 0.0, 0.3)):
        low, high = min(drawn), max(drawn)
        assert middle - reach <= low < middle - 0.98 * reach and middle + 0.98 * reach < high <= middle + reach
        assert np.std(drawn) == pytest.approx(reach / 3**0.5, rel=0.05), "uniform"


def test_without_luck_nothing_changes(pair: dict[str, torch.Tensor]) -> None:
    out = RandBrightnessContrastd(["image", "label"], prob=0.0)(pair)
    assert all(torch.equal(out[key], pair[key].float()) for key in pair)


@pytest.mark.parametrize("wrong", [{"brightness": -0.1}, {"contrast": 1.0}, {"contrast": -0.1}])
def test_bad_numbers(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RandBrightnessContrastd("image", **wrong)
