"""One scale for a pair of images, there and back; gain and offset between two."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, Flipd, Invertd

from monai_ext.data.intensity import (
    FitIntensityd,
    ScaleByNoised,
    ScaleTogetherd,
    gain_and_offset,
    noise_estimate,
)


def image(seed: int, shape: tuple[int, ...] = (1, 7, 5)) -> MetaTensor:
    values = 40 + 300 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return MetaTensor(values, meta={"filename_or_obj": f"/x/{seed}.png"})


def test_both_are_scaled_by_the_numbers_of_one() -> None:
    noisy, clean = image(0), image(1)
    found = ScaleTogetherd(["image", "label"], lower=5, upper=90)({"image": noisy, "label": clean, "name": "x"})
    low, high = np.percentile(noisy.numpy(), (5, 90))
    for key, before in (("image", noisy), ("label", clean)):
        np.testing.assert_allclose(found[key].numpy(), (before.numpy() - low) / (high - low), rtol=1e-5, atol=1e-6)
    assert found["image"].min() < 0 and found["image"].max() > 1, "nothing is clipped"
    assert found["name"] == "x"


def test_predictions_come_back_to_the_intensities_of_the_file() -> None:
    before = Compose(
        [Flipd("image", 0), ScaleTogetherd(["image", "label"], allow_missing_keys=True), Flipd("image", 1)]
    )
    items = [{"image": image(seed)} for seed in range(3)]
    for batch in DataLoader(Dataset(items, before), batch_size=3):
        batch["pred"] = 2 * batch["image"]
        for item, original in zip(decollate_batch(batch), items):
            found = Invertd(["pred", "image"], before, orig_keys="image", nearest_interp=False)(item)
            torch.testing.assert_close(found["image"].as_tensor(), original["image"].as_tensor())
            low = np.percentile(original["image"].numpy(), 0.5)
            expected = 2 * (original["image"].as_tensor() - low) + low
            torch.testing.assert_close(found["pred"].as_tensor(), expected.float(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 60, 50), (2, 24, 20, 22), (1, 60, 50, 1)], ids=str)
def test_the_estimate_of_noise(shape: tuple[int, ...]) -> None:
    """Neither flat parts nor slopes nor edges along an axis are taken for noise."""
    random = np.random.default_rng(0)
    scene = sum(np.indices(shape)[1:]).astype(float)
    scene[:, 10:] += 300
    for sigma in (0.5, 7.0):
        assert noise_estimate(scene + random.normal(0, sigma, shape)) == pytest.approx(sigma, rel=0.08)
    assert noise_estimate(scene) == pytest.approx(0, abs=1e-9)
    assert noise_estimate(np.ones((1, 2, 2))) == 0, "too small to tell"


def test_noise_of_one_strength() -> None:
    random = np.random.default_rng(0)
    scene = np.zeros((1, 30, 30, 30))
    scene[:, 8:, 5:] = 400
    for sigma in (10.0, 50.0):
        noisy = torch.from_numpy(scene + random.normal(0, sigma, scene.shape)).float()
        items = {"image": MetaTensor(noisy), "label": MetaTensor(torch.from_numpy(scene).float())}
        scale = ScaleByNoised(["image", "label"])
        found = scale(items)
        assert float((found["image"] - found["label"]).std()) == pytest.approx(1, abs=0.06)
        assert float(np.percentile(found["image"].numpy(), 0.5)) == pytest.approx(0, abs=1e-4)
        back = scale.inverse(found)
        np.testing.assert_allclose(back["label"].numpy(), scene, atol=1e-3)
    clean = ScaleByNoised("image", floor=0.02)({"image": torch.from_numpy(scene).float()})["image"]
    assert float(clean.max()) == pytest.approx(50), "the floor"
    with pytest.raises(ValueError, match="floor must be positive, got 0"):
        ScaleByNoised("image", floor=0)


def test_gain_and_offset() -> None:
    source = np.random.default_rng(0).normal(size=(6, 5))
    assert gain_and_offset(source, 3 * source - 2) == pytest.approx((3, -2))
    target = np.random.default_rng(1).normal(size=(6, 5))
    matrix = np.stack([source.ravel(), np.ones(30)], 1)
    assert gain_and_offset(source, target) == pytest.approx(np.linalg.lstsq(matrix, target.ravel())[0])
    assert gain_and_offset(np.full((6, 5), 0.1), target) == pytest.approx((0, target.mean()))
    with pytest.raises(ValueError, match=r"different shapes, \(6, 5\) and \(5,\)"):
        gain_and_offset(source, target[0])


def test_the_reference_is_fitted_to_the_noisy_image() -> None:
    """Noise on the image that is fitted to does not shrink the gain; the other way round it would."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(1, 90, 80, generator=generator)
    noisy = 2 * clean + 5 + torch.randn(clean.shape, generator=generator)
    found = FitIntensityd("label")({"image": noisy, "label": clean})
    assert torch.equal(found["image"], noisy)
    assert gain_and_offset(clean.numpy(), found["label"].numpy()) == pytest.approx((2, 5), abs=0.1)
    assert gain_and_offset(noisy.numpy(), clean.numpy())[0] < 0.2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScaleTogetherd("image", lower=90, upper=10), "lower below upper, got 90 and 10"),
        (lambda: ScaleTogetherd("label")({"label": image(0)}), r"has no 'image', it has \['label'\]"),
        (lambda: FitIntensityd("label")({"label": image(0)}), r"has no 'image', it has \['label'\]"),
        (
            lambda: ScaleTogetherd("image")({"image": image(0) * 0 + 4}),
            "the image /x/0.png has the same value, 4, at its percentiles 0.5 and 99.5",
        ),
    ],
)
def test_mistakes(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
