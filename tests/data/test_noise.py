"""Rician noise: its distribution, its level, and the same noise for a case in any order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, CopyItemsd, RandRicianNoise
from scipy.stats import kstest, rice

from monai_ext.data.case_name import case_name
from monai_ext.data.intensity import ScaleTogetherd
from monai_ext.data.noise import FixedRicianNoised, RandRicianLeveld, at_levels


def case(name: str = "/x/a.nii.gz", shape: tuple[int, ...] = (1, 9, 8, 7), scale: float = 100.0) -> dict:
    image = scale * torch.rand(shape, generator=torch.Generator().manual_seed(3))
    return {"image": MetaTensor(image, meta={"filename_or_obj": name})}


@pytest.mark.parametrize("brightness", [0.0, 20.0])
def test_the_distribution(brightness: float) -> None:
    """Rice's, and Rayleigh's where nothing is; the level counts in parts of the brightest percentile."""
    image = torch.full((1, 40, 40, 40), brightness)
    image[0, 0] = 200.0  # 2.5 %, so that the 99th percentile is 200
    data = {"image": MetaTensor(image, meta={"filename_or_obj": "a"})}
    sigma = 0.05 * 200
    noisy = FixedRicianNoised("image", level=0.05)(data)["image"].numpy()[0, 1:].ravel()
    assert noisy.min() >= 0
    assert kstest(noisy, rice(brightness / sigma, scale=sigma).cdf).pvalue > 0.01
    assert kstest(noisy, rice(brightness / sigma, scale=1.05 * sigma).cdf).pvalue < 1e-6, "the test can fail"


def test_random_levels() -> None:
    """Drawn uniformly between the two, for images of any scale alike."""
    found = {}
    for scale in (1.0, 1000.0):
        transform = RandRicianLeveld("image", levels=(0.02, 0.1))
        transform.set_random_state(0)
        found[scale] = [], []
        for _ in range(200):
            found[scale][1].append(transform(case(scale=scale))["image"].numpy() / scale)
            found[scale][0].append(transform.level)
    levels = np.asarray(found[1.0][0])
    assert kstest(levels, "uniform", (0.02, 0.08)).pvalue > 0.01
    assert found[1.0][0] == found[1000.0][0]
    np.testing.assert_allclose(found[1.0][1], found[1000.0][1], rtol=1e-4, atol=1e-6)
    weak, strong = int(levels.argmin()), int(levels.argmax())
    clean = case(scale=1.0)["image"].numpy()
    assert np.abs(found[1.0][1][weak] - clean).mean() * 3 < np.abs(found[1.0][1][strong] - clean).mean()


def test_it_is_monais_noise() -> None:
    clean = case()["image"]
    expected = RandRicianNoise(prob=1.0, std=0.08 * float(np.percentile(clean.numpy(), 99)), sample_std=False)
    transform = RandRicianLeveld("image", levels=(0.08, 0.08))
    transform.set_random_state(5)
    expected.set_random_state(5)
    expected.R.rand(1), expected.R.uniform()  # whether, and the level
    torch.testing.assert_close(transform(case())["image"], expected(clean))


def test_no_noise_now_and_then() -> None:
    transform = RandRicianLeveld("image", prob=0.5)
    transform.set_random_state(0)
    clean = case()
    untouched = [bool(torch.equal(transform(clean)["image"], clean["image"])) for _ in range(40)]
    assert 10 < sum(untouched) < 30


def test_every_evaluation_sees_the_same_noise() -> None:
    names = [f"/folder/{letter}.nii.gz" for letter in "abc"]
    transform = FixedRicianNoised("image")
    first = {name: transform(case(name))["image"] for name in names}
    again = {name: FixedRicianNoised("image")(case(f"/elsewhere{name}"))["image"] for name in reversed(names)}
    for name in names:
        assert torch.equal(first[name], again[name])
        assert case_name(first[name]) == case_name(case(name)["image"])
    assert not torch.equal(first[names[0]], first[names[1]]), "cases have noise of their own"
    assert not torch.equal(FixedRicianNoised("image", seed=1)(case(names[0]))["image"], first[names[0]])
    clean = case()["image"]
    weak, strong = (FixedRicianNoised("image", level=level)(case())["image"] for level in (0.01, 0.1))
    assert (weak - clean).abs().mean() * 5 < (strong - clean).abs().mean()
    assert torch.allclose(FixedRicianNoised("image", level=0)(case())["image"], clean)


def test_every_case_at_every_level() -> None:
    """One pattern for a case, as strong as its level says."""
    cases = [{"image": name, "label": "outlines.nii.gz", "case": name[0]} for name in ("a.nii.gz", "b.nii.gz")]
    items = at_levels(cases, [0.05, 0.1])
    assert [(item["case"], item["level"]) for item in items] == [("a", 0.05), ("a", 0.1), ("b", 0.05), ("b", 0.1)]
    assert all(set(item) == {"image", "case", "level"} for item in items)
    transform = FixedRicianNoised("image", level_key="level")
    for item in items:
        found = transform({**item, **case(item["image"])})["image"]
        expected = FixedRicianNoised("image", level=item["level"])(case(item["image"]))["image"]
        assert torch.equal(found, expected)


def test_workers_draw_their_own_noise() -> None:
    loader = DataLoader(Dataset([case() for _ in range(4)], RandRicianLeveld("image")), batch_size=1, num_workers=2)
    torch.manual_seed(0)
    images = [batch["image"] for batch in loader]
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


def test_nothing_of_the_clean_image_leaks() -> None:
    """The pair as in training: the input's scale is found on the noisy image, and the reference follows."""
    pipeline = Compose(
        [
            CopyItemsd("image", names="label"),
            FixedRicianNoised("image", level=0.2),
            ScaleTogetherd(["image", "label"], lower=0, upper=100),
        ]
    )
    found = pipeline(case())
    noisy = FixedRicianNoised("image", level=0.2)(case())["image"]
    low, high = noisy.min(), noisy.max()
    torch.testing.assert_close(found["image"], (noisy - low) / (high - low))
    torch.testing.assert_close(found["label"], (case()["image"] - low) / (high - low))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandRicianLeveld("image", levels=(0.2, 0.1)), r"levels must be two numbers .* got \[0.2, 0.1\]"),
        (lambda: RandRicianLeveld("image", levels=(-0.1, 0.1)), "levels must be two numbers"),
        (lambda: FixedRicianNoised("image", level=-1), "level must be 0 or more, got -1"),
        (lambda: FixedRicianNoised("image", level_key="level")(case()), "the item has no 'level', its level"),
        (lambda: FixedRicianNoised("image", level_key="a")({**case(), "a": -1}), "level must be 0 or more, got -1"),
        (lambda: at_levels([], []), "levels is empty"),
        (lambda: FixedRicianNoised("image", percentile=0), "percentile must lie above 0"),
        (lambda: FixedRicianNoised("image")({"image": torch.ones(1, 3, 3)}), "the image does not know its file"),
        (
            lambda: RandRicianLeveld("image")({"image": case()["image"] - 50}),
            r"the image /x/a.nii.gz goes down to -.*; add Rician noise before normalising",
        ),
    ],
)
def test_mistakes(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
