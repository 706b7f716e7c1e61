"""The retinal vessel bundle end to end: tiny on a phantom, and its weights on photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from monai_ext.data import datalist
from monai_ext.handlers.training_log import read_log
from tests.bundles.running import ROOT, complete, run_training, table, workflow

NAME = "chase_db1"
BUNDLE = ROOT / "bundles" / "retinal_vessel_segmentation"
TINY_NETWORK: dict[str, Any] = {
    "device": "$torch.device('cpu')",
    "patch_size": [64, 64],
    "window": [64, 64],
    "network_def#feature_size": 8,
    "network_def#window_size": 4,
}
TINY: dict[str, Any] = {
    **TINY_NETWORK,
    "precision": "float32",
    "num_workers": 0,
    "batch_size": 2,
    "iterations": 2,
    "max_epochs": 2,
    "val_interval": 1,
    "warmup_epochs": 1,
}
# of the shipped weights on the first test photographs, without mirroring; all eight give 0.808 and 0.9875
PHOTOGRAPHS, DICE, ROC_AUC = 3, 0.8134, 0.9887
COLUMNS = ["case", "dice", "roc_auc", "centre_line_dice", "sensitivity", "specificity", "accuracy"]


@pytest.fixture(scope="module")
def phantom(phantom_of: Callable[[Path], Path]) -> Path:
    return phantom_of(BUNDLE)


def train(phantom: Path, folder: Path, **options: Any) -> Path:
    return run_training(BUNDLE, phantom, folder, **{**TINY, **options})


@pytest.fixture(scope="module")
def trained(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(phantom, tmp_path_factory.mktemp("trained"))


def segment(images: Path, folder: Path, model: Path, **options: Any) -> dict[str, Image.Image]:
    """What inference writes, by name."""
    paths = {"dataset_dir": str(images), "output_dir": str(folder), "model_path": str(model)}
    complete(workflow(BUNDLE, ["inference.json"], "infer", **{**TINY_NETWORK, **paths, **options}))
    return {path.name: Image.open(path) for path in sorted(folder.glob("*.*"))}


def test_training(trained: Path) -> None:
    rows = read_log(trained / "training_log.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["val_mean_dice"]) <= 1 for row in rows)
    state = torch.load(trained / "training_state.pt", weights_only=True)
    assert state["iteration"] == 4, "two epochs of as many iterations as asked for"


def test_the_same_seed_makes_the_same_weights(trained: Path, phantom: Path, tmp_path: Path) -> None:
    first, again = (torch.load(path / "model.pt", weights_only=True) for path in (trained, train(phantom, tmp_path)))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("mixer", ["seqnorm", "hyena_nd"])
def test_another_mixer(phantom: Path, tmp_path: Path, mixer: str) -> None:
    train(phantom, tmp_path, max_epochs=1, **{"network_def#mixer": mixer})
    assert (tmp_path / "model.pt").is_file()


def test_evaluation(trained: Path, phantom: Path, tmp_path: Path) -> None:
    paths = {"dataset_dir": str(phantom), "output_dir": str(tmp_path), "model_path": str(trained / "model.pt")}
    complete(workflow(BUNDLE, ["train.json", "evaluate.json"], "eval", **{**TINY, **paths}))
    rows = table(tmp_path / "metrics.csv")
    cases = [entry["case"] for entry in datalist(NAME, phantom, "test")]
    assert list(rows) == [*cases, "mean", "std", "ci95_low", "ci95_high", "pooled"]
    assert list(rows["mean"]) == COLUMNS
    assert all(0 <= float(rows[case][column]) <= 1 for case in cases for column in COLUMNS[1:])
    assert {path.stem for path in (tmp_path / "overlays").glob("*.png")} == set(cases)


def test_inference_keeps_the_size(trained: Path, phantom: Path, tmp_path: Path) -> None:
    """Whatever kind of file, grey or colour, of whatever size."""
    source = Image.open(datalist(NAME, phantom, "test")[0]["image"])
    images = tmp_path / "images"
    images.mkdir()
    made = {
        "colour.png": source,
        "an odd size.jpg": source.crop((3, 5, 80, 72)),
        "grey.tif": Image.fromarray(np.asarray(source.convert("L"), dtype=np.uint16) * 200),
        "smaller than a patch.png": source.crop((20, 20, 51, 47)),
    }
    for name, image in made.items():
        image.save(images / name)
    found = segment(images, tmp_path / "out", trained / "model.pt")
    assert set(found) == {f"{Path(name).stem}_vessels.png" for name in made}
    for name, image in made.items():
        result = found[f"{Path(name).stem}_vessels.png"]
        assert result.size == image.size and result.mode == "L"
        assert set(np.unique(result)) <= {0, 255}


def test_inference_passes_over_the_labels_and_can_save_probabilities(
    trained: Path, phantom: Path, tmp_path: Path
) -> None:
    found = segment(phantom, tmp_path, trained / "model.pt", save_probabilities=True)
    cases = {entry["case"] for entry in datalist(NAME, phantom, "all")}
    assert set(found) == {f"{case}_{kind}" for case in cases for kind in ("vessels.png", "probability.tif")}
    for case in cases:
        probability, vessels = np.asarray(found[f"{case}_probability.tif"]), np.asarray(found[f"{case}_vessels.png"])
        assert probability.dtype == np.float32 and probability.min() >= 0 and probability.max() <= 1
        np.testing.assert_array_equal(probability >= np.float32(0.65), vessels == 255)


def test_the_threshold_decides(trained: Path, phantom: Path, tmp_path: Path) -> None:
    photograph = Path(datalist(NAME, phantom, "test")[0]["image"])
    for threshold, value in ((0.0, 255), (1.01, 0)):
        for result in segment(photograph, tmp_path / str(value), trained / "model.pt", threshold=threshold).values():
            assert (np.asarray(result) == value).all()


@pytest.mark.slow
def test_shipped_weights_on_real_photographs(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "chasedb1"
    if not folder.is_dir():
        pytest.skip(f"no chasedb1 in {real_data}")
    model = str(BUNDLE / "models" / "model.pt")
    paths = {"dataset_dir": str(folder), "output_dir": str(tmp_path), "model_path": model}
    options = {"device": "$torch.device('cpu')", "num_workers": 0, "mirror_axes": [], "handlers#2#_disabled_": True}
    options["dataset#data"] = f"$datalist('chase_db1', @dataset_dir, @split)[:{PHOTOGRAPHS}]"
    complete(workflow(BUNDLE, ["train.json", "evaluate.json"], "eval", **options, **paths))
    rows = table(tmp_path / "metrics.csv")
    assert float(rows["mean"]["dice"]) == pytest.approx(DICE, abs=0.003)
    assert float(rows["pooled"]["roc_auc"]) == pytest.approx(ROC_AUC, abs=0.002)
