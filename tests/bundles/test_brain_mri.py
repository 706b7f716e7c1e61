"""The brain MRI denoising bundle end to end: tiny on a phantom, and its weights on real volumes."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from monai_ext.data import datalist
from monai_ext.handlers.training_log import read_log
from tests.bundles.running import ROOT, arguments, complete, monai_bundle, run_training, workflow
from tests.data.test_readers import oblique, write_series

NAME = "task04_hippocampus"
BUNDLE = ROOT / "bundles" / "brain_mri_denoising"
TINY_NETWORK: dict[str, Any] = {
    "device": "$torch.device('cpu')",
    "patch_size": [16, 16, 16],
    "window": [32, 32, 32],
    "network_def#network#feature_size": 4,
    "network_def#network#depths": [1, 1],
    "network_def#network#num_heads": [1, 2],
    "network_def#network#window_size": 4,
}
TINY: dict[str, Any] = {
    **TINY_NETWORK,
    "num_workers": 0,
    "batch_size": 2,
    "iterations": 2,
    "max_epochs": 2,
    "val_interval": 1,
    "warmup_epochs": 1,
    "ema#momentum": 0.3,
    "mirror_axes": [],
}
COLUMNS = ["psnr", "ssim", "psnr_input", "ssim_input"]
FIRST = 5  # test cases that the shipped weights are tried on, and their mean PSNR and SSIM by level, not mirrored
HEADLINE = {
    "0.025": (40.28, 0.9862),
    "0.05": (35.99, 0.9637),
    "0.075": (33.85, 0.9410),
    "0.1": (32.47, 0.9200),
    "0.15": (30.49, 0.8800),
}
MARGINS = {"nlm": (1.6, 0.012), "nlm_known": (1.0, 0.003)}  # over non-local means at every level
ENDS = ["mean", "std", "ci95_low", "ci95_high"]


@pytest.fixture(scope="module")
def phantom(phantom_of: Callable[[Path], Path]) -> Path:
    return phantom_of(BUNDLE)


def train(phantom: Path, folder: Path, **options: Any) -> Path:
    options = {key: value for key, value in {**TINY, **options}.items() if key != "mirror_axes"}
    return run_training(BUNDLE, phantom, folder, **options)


@pytest.fixture(scope="module")
def trained(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(phantom, tmp_path_factory.mktemp("trained"))


def evaluate(data: Path, folder: Path, *overlays: str, **options: Any) -> dict[tuple[str, str], dict[str, float]]:
    """The table by case and level."""
    paths = {"dataset_dir": str(data), "output_dir": str(folder)}
    complete(workflow(BUNDLE, ["train.json", "evaluate.json", *overlays], "eval", **{**paths, **options}))
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (row.pop("case"), row.pop("level")): {key: float(value or "nan") for key, value in row.items()} for row in rows
    }


def denoise(scans: Path, folder: Path, model: Path, **options: Any) -> dict[str, nib.Nifti1Image]:
    """What inference writes, by name."""
    paths = {"dataset_dir": str(scans), "output_dir": str(folder), "model_path": str(model)}
    settings = {**TINY_NETWORK, "mirror_axes": [], **paths, **options}
    complete(workflow(BUNDLE, ["inference.json"], "infer", **settings))
    return {path.name: nib.load(path) for path in folder.glob("*.nii.gz")}


def test_training(trained: Path) -> None:
    rows = read_log(trained / "training_log.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(10 < float(row["val_psnr"]) < 60 and float(row["train_loss"]) > 0 for row in rows)
    state = torch.load(trained / "training_state.pt", weights_only=True)
    assert state["iteration"] == 4, "two epochs of as many iterations as asked for"


def test_the_same_seed_makes_the_same_weights(trained: Path, phantom: Path, tmp_path: Path) -> None:
    folders = trained, train(phantom, tmp_path / "a"), train(phantom, tmp_path / "b", seed=1)
    first, again, other = (torch.load(path / "model.pt", weights_only=True) for path in folders)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("mixer", ["seqnorm", "hyena_nd", "mamba", "neighborhood"])
def test_another_mixer(phantom: Path, tmp_path: Path, mixer: str) -> None:
    train(phantom, tmp_path, max_epochs=1, **{"network_def#network#mixer": mixer})
    assert (tmp_path / "model.pt").is_file()


def test_evaluation(trained: Path, phantom: Path, tmp_path: Path) -> None:
    """A row for every case and level, and what non-local means do beside it where the overlay asks for it."""
    model = {"model_path": str(trained / "model.pt"), "levels": [0.025, 0.1], "pictures": 1}
    rows = evaluate(phantom, tmp_path / "a", **{**TINY, **model})
    cases = [entry["case"] for entry in datalist(NAME, phantom, "test")]
    levels = ["0.025", "0.1"]
    assert list(rows) == [(name, level) for names in (cases, ENDS) for level in levels for name in names]
    assert all(list(row) == COLUMNS for row in rows.values())
    for case in cases:
        assert rows[case, "0.025"]["psnr_input"] > rows[case, "0.1"]["psnr_input"] + 10
        assert 0 < rows[case, "0.1"]["ssim_input"] < rows[case, "0.025"]["ssim_input"] < 1
    assert {path.name for path in (tmp_path / "a" / "pictures").iterdir()} == {f"{cases[0]}_level_0.025.png"}
    beside = evaluate(phantom, tmp_path / "b", "non_local_means.json", **{**TINY, **model})
    names = [f"{metric}_{kind}" for kind in ("nlm", "nlm_known") for metric in ("psnr", "ssim")]
    for key in [(case, level) for case in cases for level in levels]:
        assert list(beside[key]) == [*COLUMNS, *names]
        assert {name: beside[key][name] for name in COLUMNS} == rows[key], "the same noise in every run"
        assert key[1] == "0.025" or beside[key]["psnr_nlm"] > rows[key]["psnr_input"] + 1


def check(found: nib.Nifti1Image, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """A volume on the very grid of its image."""
    assert found.shape == shape and found.get_data_dtype() == np.float32
    np.testing.assert_allclose(found.affine, affine, atol=1e-4)
    return np.asarray(found.dataobj)


def test_inference_keeps_grid_and_intensities(trained: Path, phantom: Path, tmp_path: Path) -> None:
    """Oblique, of an odd size, smaller than a patch, and of any scale of intensities."""
    volume = nib.load(datalist(NAME, phantom, "test")[0]["image"]).get_fdata()
    volume = np.round(1000 * volume / volume.max())[1:, 2:, 1:]
    affine = np.eye(4)
    affine[:3, :3] = oblique() @ np.array([[0, 0, -2.4], [-0.8, 0, 0], [0, 1.1, 0]])
    affine[:3, 3] = 12.5, -40.0, 7.25
    given = {
        "plain.nii.gz": (volume.astype(np.int16), np.eye(4)),
        "bright.nii.gz": ((volume * 5000).astype(np.float32), np.eye(4)),
        "oblique.nii": (volume[:27, :23, ::2].astype(np.float32), affine),
        "smaller.nii": (volume[:10, :12, :9].astype(np.int16), np.diag([1.0, 1.0, 1.5, 1.0])),
        "slice.nii.gz": (volume[..., :1].astype(np.int16), np.eye(4)),
    }
    scans = tmp_path / "scans"
    scans.mkdir()
    for name, (array, grid) in given.items():
        nib.save(nib.Nifti1Image(array, grid), scans / name)
    found = denoise(scans, tmp_path / "out", trained / "model.pt")
    assert set(found) == {f"{name.split('.')[0]}_denoised.nii.gz" for name in given}
    results = {}
    for name, (array, grid) in given.items():
        result = results[name] = check(found[f"{name.split('.')[0]}_denoised.nii.gz"], array.shape, grid)
        assert np.ptp(result - array) > 0, "something was done"
        assert np.abs(result - array).mean() < 0.2 * np.ptp(array.astype(float)), "on the scale of the file"
    scale = float(np.abs(results["bright.nii.gz"]).max())
    np.testing.assert_allclose(results["bright.nii.gz"], results["plain.nii.gz"] * 5000, atol=1e-4 * scale)
    assert len(list((tmp_path / "out" / "pictures").glob("*.png"))) == len(given)


def test_inference_on_dicom(trained: Path, phantom: Path, tmp_path: Path) -> None:
    volume = nib.load(datalist(NAME, phantom, "test")[0]["image"]).get_fdata()[:, :, ::3]
    volume = np.round(1000 * volume / volume.max()).astype(np.int16)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T))
    image.SetSpacing((1.0, 1.25, 3.0))
    image.SetOrigin((-12.5, 30.25, 7.75))
    image.SetDirection(oblique().ravel().tolist())
    write_series(image, tmp_path / "scans" / "1.2.840.7")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = oblique() @ np.diag(image.GetSpacing()), image.GetOrigin()
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # DICOM's axes point left and posterior
    found = denoise(tmp_path / "scans", tmp_path / "a", trained / "model.pt")
    result = check(found["1.2.840.7_denoised.nii.gz"], volume.shape, affine)
    nib.save(nib.Nifti1Image(volume, affine), tmp_path / "b.nii")
    (nifti,) = denoise(tmp_path / "b.nii", tmp_path / "b", trained / "model.pt").values()
    np.testing.assert_allclose(np.asarray(nifti.dataobj), result, atol=0.1)


def test_the_command(trained: Path, phantom: Path, tmp_path: Path) -> None:
    """In the folder of the bundle, as one who got it alone would call it."""
    scan = datalist(NAME, phantom, "test")[0]["image"]
    paths = {"dataset_dir": scan, "output_dir": str(tmp_path), "model_path": str(trained / "model.pt")}
    words = ["run", "--config_file", "configs/inference.json", *arguments(**TINY_NETWORK, **paths)]
    result = monai_bundle(*words, cwd=BUNDLE)
    assert result.code == 0, result.text
    assert (tmp_path / Path(scan).name.replace(".nii.gz", "_denoised.nii.gz")).is_file()


@pytest.mark.slow
def test_shipped_weights_on_real_volumes(real_data: Path, tmp_path: Path) -> None:
    """The first test cases: their part of docs/test_metrics.csv, and the margin over non-local means."""
    folder = real_data / "Task04_Hippocampus"
    if not folder.is_dir():
        pytest.skip(f"no Task04_Hippocampus in {real_data}")
    first = f"$at_levels(datalist('{NAME}', @dataset_dir, @split)[:{FIRST}], @levels)"
    options = {"device": "$torch.device('cpu')", "num_workers": 0, "pictures": 1, "mirror_axes": []}
    rows = evaluate(folder, tmp_path, "non_local_means.json", **options, **{"dataset#data": first})
    for level, (psnr, ssim) in HEADLINE.items():
        mean = rows["mean", level]
        assert mean["psnr"] == pytest.approx(psnr, abs=0.02), level
        assert mean["ssim"] == pytest.approx(ssim, abs=0.002), level
        for kind, (more_psnr, more_ssim) in MARGINS.items():
            assert mean["psnr"] > mean[f"psnr_{kind}"] + more_psnr, (level, kind)
            assert mean["ssim"] > mean[f"ssim_{kind}"] + more_ssim, (level, kind)
