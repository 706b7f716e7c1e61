"""Noise of pairs: its size and kind, what stays untouched, and the same noise for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_ext.data.pair_noise import RandPhotonNoised

PLAIN = {"read_noise": (0, 0), "smooth": (0, 0), "correlation": (0, 0), "prob": 1.0}


def pair(size: int = 16) -> dict[str, MetaTensor]:
    clean = torch.rand(1, size, size, generator=torch.Generator().manual_seed(1))
    noise = 0.1 * torch.randn(1, size, size, generator=torch.Generator().manual_seed(2))
    return {"image": MetaTensor(clean + noise), "label": MetaTensor(clean)}


def steps(size: int = 128) -> MetaTensor:
    """Dark at the left, in the middle half as bright as at the right; one value each."""
    clean = torch.full((1, 3 * size, size), 0.2)
    clean[:, size : 2 * size] = 0.7
    clean[:, 2 * size :] = 1.2
    return MetaTensor(clean)


def parts(image: torch.Tensor) -> list[np.ndarray]:
    return list(image.numpy().reshape(3, -1))


def test_photons() -> None:
    """Poisson: the variance is the light over the photons, the mean the clean image; without light no noise."""
    clean = steps()
    found = RandPhotonNoised("image", photons=(50, 50), **PLAIN).set_random_state(0)({"image": clean, "label": clean})
    dark, half, full = parts(found["image"])
    np.testing.assert_allclose(dark, 0.2, atol=1e-6)
    assert half.mean() == pytest.approx(0.7, abs=0.005) and full.mean() == pytest.approx(1.2, abs=0.006)
    assert half.var() == pytest.approx(0.5 / 50, rel=0.05) and full.var() == pytest.approx(1.0 / 50, rel=0.05)
    np.testing.assert_allclose((full - 0.2) * 50, np.round((full - 0.2) * 50), atol=1e-3)  # whole photons
    assert torch.equal(found["label"], clean)


def test_read_noise() -> None:
    clean = steps()
    options = PLAIN | {"read_noise": (0.03, 0.03)}
    found = RandPhotonNoised("image", photons=(1e9, 1e9), **options).set_random_state(0)
    noise = (found({"image": clean, "label": clean})["image"] - clean).numpy()
    assert noise.std() == pytest.approx(0.03, rel=0.02)
    assert abs(float((noise[:, 1:] * noise[:, :-1]).mean())) < 0.05 * noise.var()


def test_correlation_keeps_the_spread() -> None:
    clean = steps()
    options = PLAIN | {"read_noise": (0.03, 0.03), "correlation": (0.6, 0.6)}
    found = RandPhotonNoised("image", photons=(1e9, 1e9), **options).set_random_state(0)
    noise = (found({"image": clean, "label": clean})["image"] - clean).numpy()
    assert noise.std() == pytest.approx(0.03, rel=0.02)
    assert float((noise[:, 1:] * noise[:, :-1]).mean()) > 0.3 * noise.var()


def test_the_reference_is_smoothed_and_not_its_noise_learnt() -> None:
    data = pair(64)
    found = RandPhotonNoised("image", photons=(1e9, 1e9), **PLAIN | {"smooth": (1.5, 1.5)})(data)
    assert float(found["label"].std()) < 0.3 * float(data["label"].std())
    assert float(found["label"].mean()) == pytest.approx(float(data["label"].mean()), abs=0.01)
    torch.testing.assert_close(found["image"], found["label"], atol=1e-3, rtol=0)


def test_cut() -> None:
    clean = steps()
    options = PLAIN | {"read_noise": (0.05, 0.05), "cut_prob": 1.0}
    found = RandPhotonNoised("image", photons=(1e9, 1e9), **options).set_random_state(0)
    dark = parts(found({"image": clean, "label": clean})["image"])[0]
    assert dark.min() >= 0.2 - 1e-6 and (dark == dark.min()).mean() > 0.4


def test_left_alone_and_seeded() -> None:
    data = pair()
    same = RandPhotonNoised("image", prob=0.0)(data)
    assert all(torch.equal(same[key], data[key]) for key in data)
    first, again, other = (RandPhotonNoised("image", prob=1.0).set_random_state(s)(pair())["image"] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.dtype == torch.float32 and isinstance(first, MetaTensor)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"photons": (0, 10)}, "photons"), ({"smooth": (1.0,)}, "smooth"), ({"read_noise": (-1, 1)}, "read_noise")],
)
def test_bad_options(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RandPhotonNoised("image", **options)


def test_without_the_reference() -> None:
    with pytest.raises(ValueError, match="label"):
        RandPhotonNoised("image", prob=1.0)({"image": pair()["image"]})
