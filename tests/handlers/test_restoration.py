"""PSNR and SSIM of every case, with and without a fit, in a table beside the input and non-local means."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from monai.inferers import SimpleInferer
from monai.transforms import Compose, CopyItemsd, LoadImaged
from scipy.ndimage import correlate1d
from torch import nn

from monai_ext.data.intensity import ScaleTogetherd
from monai_ext.data.noise import FixedRicianNoised
from monai_ext.data.non_local_means import NonLocalMeansd
from monai_ext.handlers.case_metrics import CaseMetricsSaver
from monai_ext.handlers.restoration import CasePSNR, CaseSSIM, psnr, ssim
from monai_ext.handlers.restoration_picture import RestorationPictureSaver, draw_restoration

pytest.importorskip("skimage")

SHAPES = [(1, 17, 13), (1, 12, 15, 11), (3, 13, 17)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def images(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    reference = random.uniform(2, 5, shape)
    return reference + random.normal(0, 0.3, shape), reference


def plain_psnr(image: np.ndarray, reference: np.ndarray, data_range: float) -> float:
    return 20 * math.log10(data_range) - 10 * math.log10(np.mean((image - reference) ** 2))


def plain_ssim(image: np.ndarray, reference: np.ndarray, data_range: float) -> float:
    """Wang's formula, averaged where the window lies inside, then over channels."""
    place = np.arange(-5, 6)
    window = np.exp(-0.5 * (place / 1.5) ** 2)
    window /= window.sum()

    def mean(x: np.ndarray) -> np.ndarray:
        for axis in range(1, x.ndim):
            x = correlate1d(x, window, axis, mode="reflect")
        return x

    a, b = mean(image), mean(reference)
    var_a, var_b = mean(image**2) - a**2, mean(reference**2) - b**2
    covariance = mean(image * reference) - a * b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = (2 * a * b + c1) * (2 * covariance + c2) / ((a**2 + b**2 + c1) * (var_a + var_b + c2))
    inside = (slice(None), *[slice(5, -5)] * (image.ndim - 1))
    return float(found[inside].mean())


@each_shape
def test_the_formulas(shape: tuple[int, ...]) -> None:
    image, reference = images(shape)
    own = float(reference.max() - reference.min())
    for given, data_range in ((None, own), (4.0, 4.0)):
        assert psnr(image, reference, given) == pytest.approx(plain_psnr(image, reference, data_range))
        assert ssim(image, reference, given) == pytest.approx(plain_ssim(image, reference, data_range))
    assert psnr(reference, reference) == math.inf and ssim(reference, reference) == pytest.approx(1)


@pytest.mark.parametrize("metric", [CasePSNR, CaseSSIM])
def test_a_fit_undoes_a_stretched_contrast(metric: type) -> None:
    image, reference = (torch.from_numpy(value) for value in images((1, 17, 13)))
    plain, fit = (metric(fit=fit).metric_fn for fit in (False, True))
    stretched = -40 * image + 300
    assert float(fit(stretched[None], reference[None])) == pytest.approx(float(fit(image[None], reference[None])))
    assert float(fit(image[None], reference[None])) > float(plain(image[None], reference[None])) - 0.01
    assert float(plain(stretched[None], reference[None])) < float(plain(image[None], reference[None])) - 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: psnr(*images((1, 9, 9)), data_range=0), "data_range must be positive, got 0"),
        (lambda: CaseSSIM(data_range=-1), "data_range must be positive, got -1"),
        (lambda: psnr(np.zeros((1, 9, 9)), np.ones((1, 9, 9))), "the reference is constant, give data_range a number"),
        (lambda: psnr(np.zeros((1, 9, 9)), np.ones((1, 9, 8))), r"different shapes, \(1, 9, 9\) and \(1, 9, 8\)"),
        (lambda: psnr(np.full((1, 9, 9), np.nan), images((1, 9, 9))[1]), "the image has NaN or infinite values"),
        (lambda: ssim(*images((1, 12, 10))), r"SSIM needs 11 voxels along every axis, the image has \(12, 10\)"),
        (lambda: draw_restoration(*[np.zeros((9, 9, 9, 9))] * 2, None, "x.png"), "2 or 3 dimensions, got the shape"),
        (
            lambda: draw_restoration(np.zeros((9, 9)), np.zeros((9, 8)), None, "x.png"),
            "the images have different shapes",
        ),
    ],
)
def test_mistakes(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class Smooth(nn.Module):
    """A 'denoiser' whose answer is known."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pool = nn.functional.avg_pool2d if x.ndim == 4 else nn.functional.avg_pool3d
        return pool(x, 3, 1, 1, count_include_pad=False)


def blocks(name: str, shape: tuple[int, ...]) -> dict[str, MetaTensor]:
    clean = torch.full((1, *shape), 30.0)
    clean[:, 4:11, 5:] = 200.0
    return {"image": MetaTensor(clean, meta={"filename_or_obj": name})}


def evaluate(items: list[dict], handlers: list, fit: bool = False, with_label: bool = True) -> SupervisedEvaluator:
    before = [FixedRicianNoised("image", level=0.1), ScaleTogetherd(["image", "label"], allow_missing_keys=True)]
    metrics = {
        f"val_{name}{suffix}": metric(fit=fit, output_transform=from_engine([key, "label"]))
        for name, metric in (("psnr", CasePSNR), ("ssim", CaseSSIM))
        for suffix, key in (("", "pred"), ("_input", "image"), ("_nlm", "nlm"))
    }
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(
            Dataset(items, Compose([*([CopyItemsd("image", names="label")] if with_label else []), *before])),
            batch_size=2,
        ),
        network=Smooth(),
        inferer=SimpleInferer(),
        postprocessing=NonLocalMeansd("image", patch_size=3, patch_distance=2),
        key_val_metric={"val_psnr": metrics.pop("val_psnr")} if with_label else None,
        additional_metrics=metrics if with_label else None,
        val_handlers=handlers,
    )
    evaluator.run()
    return evaluator


COLUMNS = ["psnr", "ssim", "psnr_input", "ssim_input", "psnr_nlm", "ssim_nlm"]


@pytest.mark.parametrize("shape", [(19, 15), (15, 13, 12)], ids=["2D", "3D"])
def test_table_and_pictures_of_an_evaluation(shape: tuple[int, ...], tmp_path: Path) -> None:
    items = [blocks(f"/x/{name}.nii.gz", shape) for name in "cab"]
    table = CaseMetricsSaver(tmp_path / "metrics.csv", metrics={f"val_{name}": name for name in COLUMNS})
    engine = evaluate(items, [table, RestorationPictureSaver(tmp_path, max_cases=2)])
    with (tmp_path / "metrics.csv").open() as file:
        rows = {row.pop("case"): row for row in csv.DictReader(file)}
    assert list(rows) == ["a", "b", "c", "mean", "std", "ci95_low", "ci95_high"]
    assert list(rows["a"]) == COLUMNS
    for case, item in (("a", items[1]), ("c", items[0])):
        noisy = FixedRicianNoised("image", level=0.1)(item)["image"]
        image, clean, out = (value.numpy().astype(float) for value in (noisy, item["image"], Smooth()(noisy[None])[0]))
        data_range = float(np.ptp(clean))
        assert float(rows[case]["psnr_input"]) == pytest.approx(plain_psnr(image, clean, data_range), abs=1e-3)
        assert float(rows[case]["psnr"]) == pytest.approx(plain_psnr(out, clean, data_range), abs=1e-3)
        assert float(rows[case]["ssim"]) == pytest.approx(plain_ssim(out, clean, data_range), abs=0.02)
    assert float(rows["mean"]["psnr_nlm"]) > float(rows["mean"]["psnr_input"]) + 1
    assert engine.state.metrics["val_psnr"] == pytest.approx(float(rows["mean"]["psnr"]), abs=1e-3)
    assert float(rows["ci95_low"]["psnr"]) <= float(rows["mean"]["psnr"]) <= float(rows["ci95_high"]["psnr"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "c.png", "metrics.csv"]
    picture = imread(tmp_path / "a.png")
    assert picture.shape[1] > 1200 and picture.shape[0] > (600 if len(shape) == 2 else 1200)


def test_a_table_with_a_case_at_several_levels(tmp_path: Path) -> None:
    """Rows and pictures of their own for each, means and intervals of each level."""
    items = [{**blocks(f"/x/{name}.nii.gz", (19, 15)), "level": level} for name in "ba" for level in (0.05, 0.1)]
    before = [CopyItemsd("image", names="label"), FixedRicianNoised("image", level_key="level")]
    table = CaseMetricsSaver(tmp_path / "metrics.csv", metrics={"val_psnr": "psnr"}, group_key="level")
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items, Compose(before)), batch_size=3),
        network=nn.Identity(),
        key_val_metric={"val_psnr": CasePSNR(output_transform=from_engine(["pred", "label"]))},
        val_handlers=[table, RestorationPictureSaver(tmp_path, group_key="level", max_cases=3)],
    )
    evaluator.run()
    with (tmp_path / "metrics.csv").open() as file:
        rows = {(row["case"], row["level"]): float(row["psnr"]) for row in csv.DictReader(file)}
    ends = ["mean", "std", "ci95_low", "ci95_high"]
    assert list(rows) == [
        *[(case, level) for level in ("0.05", "0.1") for case in "ab"],
        *[(end, level) for level in ("0.05", "0.1") for end in ends],
    ]
    for level in (0.05, 0.1):
        values = [rows[case, f"{level}"] for case in "ab"]
        noisy = FixedRicianNoised("image", level=level)(items[2])["image"].numpy()
        assert values[0] == pytest.approx(psnr(noisy, items[2]["image"].numpy()), abs=1e-3)
        assert rows["mean", f"{level}"] == pytest.approx(np.mean(values), abs=1e-3)
        assert rows["std", f"{level}"] == pytest.approx(np.std(values), abs=1e-3)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "b_level_0.05.png",
        "b_level_0.1.png",
        "a_level_0.05.png",
    }


def test_an_item_without_its_group(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the item has no 'dose', named by group_key; it has "):
        evaluate([blocks("/x/a.png", (19, 15))], [RestorationPictureSaver(tmp_path, group_key="dose")])


def test_pictures_without_a_reference(tmp_path: Path) -> None:
    evaluate([blocks("/x/a.png", (19, 15))], [RestorationPictureSaver(tmp_path)], with_label=False)
    assert 900 < imread(tmp_path / "a.png").shape[1] < 1400, "three panels"


def colourful(picture: np.ndarray) -> tuple[float, float]:
    """Parts of the picture that are clearly red, and clearly blue."""
    red, blue = picture[..., 0] - picture[..., 2] > 0.2, picture[..., 2] - picture[..., 0] > 0.2
    return float(red.mean()), float(blue.mean())


@pytest.mark.parametrize("sign", [1, -1])
def test_the_residual_is_output_less_reference_on_a_symmetric_scale(sign: int, tmp_path: Path) -> None:
    reference = images((1, 17, 13))[1][0]
    draw_restoration(reference, reference + sign, reference, tmp_path / "a.png")
    red, blue = colourful(imread(tmp_path / "a.png"))
    assert (red > 5 * blue) if sign > 0 else (blue > 5 * red)


def test_a_picture_of_equal_images_and_a_fit(tmp_path: Path) -> None:
    reference = images((1, 17, 13))[1][0]
    draw_restoration(3 * reference + 1, 9 - reference, reference, tmp_path / "fit.png", fit=True)
    draw_restoration(reference, reference, reference, tmp_path / "same.png")
    whole = [colourful(imread(tmp_path / name)) for name in ("fit.png", "same.png")]
    assert whole[0] == pytest.approx(whole[1], abs=0.002), "nothing is left after the fit"


def test_a_real_pair_of_exposures(real_data: Path) -> None:
    """The images were stretched on their own; only after a fit the long exposure is near."""
    folder = real_data / "hagen2021"
    if not folder.is_dir():
        pytest.skip("hagen2021 not among the real data")
    name = "membrane-{}snr-sample.png"
    paths = {
        "image": folder / "low_snr_images" / name.format("low"),
        "label": folder / "high_snr_images" / name.format("high"),
    }
    pair = LoadImaged(["image", "label"], ensure_channel_first=True)(paths)
    low, high = (pair[key][:1, 64:192, 64:192].numpy().astype(float) for key in ("image", "label"))
    plain, fit = (CasePSNR(fit=fit).metric_fn.function for fit in (False, True))
    assert fit(low, high) > plain(low, high) + 1 and fit(low, high) > 15
    smooth = NonLocalMeansd("image")({"image": torch.from_numpy(low)})["nlm"].numpy()
    assert fit(smooth, high) > fit(low, high)
