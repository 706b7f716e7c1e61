"""Denoising without a network."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Invertd

from monai_ext.data.non_local_means import NonLocalMeansd


def pattern(shape: tuple[int, ...]) -> tuple[torch.Tensor, MetaTensor]:
    clean = torch.zeros(shape)
    clean[:, 3:9] = 100.0
    noisy = clean + 10 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return clean, MetaTensor(noisy, meta={"filename_or_obj": "/x/a.png"})


@pytest.mark.parametrize("shape", [(1, 21, 17), (1, 13, 12, 11), (3, 21, 17)], ids=str)
def test_less_noise(shape: tuple[int, ...]) -> None:
    pytest.importorskip("skimage")
    clean, noisy = pattern(shape)
    found = NonLocalMeansd("image", patch_distance=3)({"image": noisy})
    assert torch.equal(found["image"], noisy)
    result = found["nlm"]
    assert isinstance(result, MetaTensor) and result.meta["filename_or_obj"] == "/x/a.png"
    assert result.shape == shape and result.dtype == torch.float32
    assert (result - clean).square().mean() < 0.5 * (noisy - clean).square().mean()


def test_it_is_scikit_images() -> None:
    restoration = pytest.importorskip("skimage.restoration")
    _, noisy = pattern((1, 21, 17))
    numbers = noisy.numpy()[0]
    sigma = restoration.estimate_sigma(numbers)
    options = {"patch_size": 3, "patch_distance": 4, "h": 0.5 * sigma, "sigma": sigma, "fast_mode": True}
    transform = NonLocalMeansd("image", strength=0.5, patch_size=3, patch_distance=4)
    expected = restoration.denoise_nl_means(numbers, **options)
    np.testing.assert_allclose(transform({"image": noisy})["nlm"].numpy()[0], expected, rtol=1e-5)


def test_a_known_level() -> None:
    restoration = pytest.importorskip("skimage.restoration")
    clean, noisy = pattern((1, 13, 12, 11))
    numbers, sigma = noisy.numpy()[0], float((noisy - clean).square().mean().sqrt())
    options = {"patch_size": 3, "patch_distance": 2, "h": 0.5 * sigma, "sigma": sigma, "fast_mode": True}
    transform = NonLocalMeansd("image", strength=0.5, patch_size=3, patch_distance=2, reference_key="label")
    expected = restoration.denoise_nl_means(numbers, **options)
    found = transform({"image": noisy, "label": MetaTensor(clean)})["nlm"].numpy()[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_image_without_noise_and_the_way_back() -> None:
    pytest.importorskip("skimage")
    image = MetaTensor(torch.zeros(1, 16, 12))
    image[:, 8:] = 4
    before = Compose([Flipd("image", 0)])
    turned = before({"image": image.clone()})
    found = NonLocalMeansd("image", names="smooth")(turned)
    assert torch.equal(found["smooth"], turned["image"])
    back = Invertd("smooth", before, orig_keys="image", nearest_interp=False)(found)
    assert torch.equal(back["smooth"].as_tensor(), image.as_tensor())


def test_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="names must be one new key"):
        NonLocalMeansd(["a", "b"], names="c")
    with pytest.raises(ValueError, match="strength must be positive, got 0"):
        NonLocalMeansd("a", strength=0)
    with pytest.raises(ValueError, match="the item has no 'clean', named by reference_key; it has"):
        NonLocalMeansd("image", reference_key="clean")({"image": torch.rand(1, 9, 9)})
    for name in [name for name in sys.modules if name.split(".")[0] == "skimage"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(
        ImportError, match=r'scikit-image is not installed .* install -c constraints.txt -e ".\[metrics'
    ):
        NonLocalMeansd("image")({"image": torch.rand(1, 9, 9)})
