"""The bundles that classify, end to end: tiny on phantoms, what users bring, and their weights on real images."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from monai_ext.data import datalist, load_manifest
from monai_ext.data.rows import read_row
from monai_ext.handlers.training_log import read_log
from tests.bundles.running import (
    BUNDLES,
    Outcome,
    arguments,
    classifies,
    complete,
    data_of,
    monai_bundle,
    run_training,
    table,
    workflow,
)

TINY: dict[str, Any] = {
    "device": "$torch.device('cpu')",
    "network_def#feature_size": 8,
    "precision": "float32",
    "num_workers": 0,
    "batch_size": 2,
    "max_epochs": 2,
    "val_interval": 1,
    "warmup_epochs": 1,
}


@dataclass(frozen=True)
class Case:
    """What a bundle's tests need to know of it; `headline` is that of the shipped weights without mirroring."""

    metric: str
    headline: float
    tolerance: float
    tiny: dict[str, Any] = field(default_factory=dict)


CASES = {
    "blood_cell_classification": Case("macro_f1", 0.9952, 0.004, {"iterations": 3}),
    "adrenal_ct_classification": Case("roc_auc", 0.9391, 0.002),
}
CLASSIFIERS = [bundle for bundle in BUNDLES if classifies(bundle)]
BLOOD, ADRENAL = (next(b for b in BUNDLES if b.name.startswith(start)) for start in ("blood", "adrenal"))
every_bundle = pytest.mark.parametrize("bundle", CLASSIFIERS, ids=lambda path: path.name)


@pytest.fixture(scope="module")
def trained(phantom_of: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """What a tiny training of a bundle wrote, with model.pt; read it, never write to it."""
    folders: dict[Path, Path] = {}

    def of(bundle: Path) -> Path:
        if bundle not in folders:
            folders[bundle] = train(bundle, phantom_of(bundle), tmp_path_factory.mktemp(bundle.name))
        return folders[bundle]

    return of


def train(bundle: Path, phantom: Path, folder: Path, **options: Any) -> Path:
    return run_training(bundle, phantom, folder, **{**TINY, **CASES[bundle.name].tiny, **options})


def classify(bundle: Path, images: Path, folder: Path, model: Path, **options: Any) -> dict[str, dict[str, str]]:
    """The rows of what inference writes, by case."""
    tiny = {name: TINY[name] for name in ("device", "network_def#feature_size")}
    paths = {"dataset_dir": str(images), "output_dir": str(folder), "model_path": str(model)}
    complete(workflow(bundle, ["inference.json"], "infer", **{**tiny, "mirror_axes": [], **paths, **options}))
    assert (folder / "pictures" / "samples.png").is_file()
    return table(folder / "predictions.csv")


def metrics(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return {row["metric"]: row for row in csv.DictReader(file)}


def names(bundle: Path) -> tuple[str, ...]:
    return load_manifest(data_of(bundle)).class_names


@every_bundle
def test_every_bundle_has_its_case(bundle: Path) -> None:
    assert bundle.name in CASES


@every_bundle
def test_training(bundle: Path, trained: Callable[[Path], Path]) -> None:
    rows = read_log(trained(bundle) / "training_log.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row[f"val_{CASES[bundle.name].metric}"]) <= 1 for row in rows)


@every_bundle
def test_the_same_seed_makes_the_same_weights(
    bundle: Path, trained: Callable[[Path], Path], phantom_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    folders = trained(bundle), train(bundle, phantom_of(bundle), tmp_path)
    first, again = (torch.load(folder / "model.pt", weights_only=True) for folder in folders)
    assert all(torch.equal(first[name], again[name]) for name in first)


@every_bundle
def test_evaluation(
    bundle: Path, trained: Callable[[Path], Path], phantom_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    model, phantom = trained(bundle) / "model.pt", phantom_of(bundle)
    paths = {"dataset_dir": str(phantom), "output_dir": str(tmp_path), "model_path": str(model)}
    complete(workflow(bundle, ["train.json", "evaluate.json"], "eval", **{**TINY, **paths}))
    entries = {entry["case"]: entry for entry in datalist(data_of(bundle), phantom, "test")}
    rows = table(tmp_path / "predictions.csv")
    assert list(rows) == sorted(entries)
    classes = names(bundle)
    assert all(row["label"] == classes[entries[case]["label"]] for case, row in rows.items())
    right = [row["prediction"] == row["label"] for row in rows.values()]
    assert [row["correct"] == "true" for row in rows.values()] == right
    assert float(metrics(tmp_path)["accuracy"]["value"]) == pytest.approx(np.mean(right), abs=1e-4)
    with (tmp_path / "confusion_matrix.csv").open(newline="") as file:
        matrix = np.array([line[1:] for line in list(csv.reader(file))[1:]], dtype=int)
    assert matrix.sum() == len(rows) and np.trace(matrix) == sum(right)


def test_cells_of_whatever_file(trained: Callable[[Path], Path], phantom_of: Callable[[Path], Path], tmp_path: Path):
    """Grey or colour, 8 or 16 bits, of whatever size and kind; one row each, and the same class for the same cell."""
    entry = datalist("bccd", phantom_of(BLOOD), "test")[0]
    x0, y0, x1, y1 = entry["box"]
    cell = Image.open(entry["image"]).convert("RGB").crop((x0, y0, x1, y1))
    images = tmp_path / "images"
    images.mkdir()
    cell.save(images / "colour.png")
    cell.save(images / "a jpeg of a zelle ü.jpg")
    cell.convert("RGBA").save(images / "alpha.png")
    cell.convert("L").save(images / "grey.bmp")
    Image.fromarray(np.asarray(cell.convert("L"), np.uint16) * 257).save(images / "deep.tif")
    nib.save(nib.Nifti1Image(np.asarray(cell.convert("L")).T.astype(np.int16), np.eye(4)), images / "slice.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(np.asarray(cell.convert("L"))), images / "slice.dcm")
    cell.resize((301, 77)).save(images / "large.png")
    cell.resize((5, 3)).save(images / "tiny.png")
    rows = classify(BLOOD, images, tmp_path / "out", trained(BLOOD) / "model.pt")
    assert len(rows) == 9
    shares = {
        case: np.array([float(row[f"probability_{name}"]) for name in names(BLOOD)]) for case, row in rows.items()
    }
    np.testing.assert_allclose(shares["alpha"], shares["colour"], atol=1e-4)
    np.testing.assert_allclose(shares["deep"], shares["grey"], atol=1e-3)
    np.testing.assert_allclose(shares["slice.nii.gz"], shares["grey"], atol=1e-3)
    np.testing.assert_allclose(shares["slice.dcm"], shares["grey"], atol=1e-3)


def test_boxes_beside_a_smear(trained: Callable[[Path], Path], phantom_of: Callable[[Path], Path], tmp_path: Path):
    """A picture with boxes is classified box by box, as in the evaluation; without them as a whole."""
    entries = datalist("bccd", phantom_of(BLOOD), "test")
    smear = Path(entries[0]["image"])
    cells = {entry["case"]: entry["box"] for entry in entries if entry["group"] == entries[0]["group"]}
    rows = classify(BLOOD, smear, tmp_path / "boxes", trained(BLOOD) / "model.pt")
    assert {
        case: [int(row[corner]) for corner in ("xmin", "ymin", "xmax", "ymax")] for case, row in rows.items()
    } == cells
    alone = tmp_path / "alone" / smear.name
    alone.parent.mkdir()
    alone.write_bytes(smear.read_bytes())
    assert list(classify(BLOOD, alone, tmp_path / "whole", trained(BLOOD) / "model.pt")) == [smear.stem]


def test_glands_in_scans(trained: Callable[[Path], Path], phantom_of: Callable[[Path], Path], tmp_path: Path) -> None:
    """A gland outlined in a larger scan, turned and of another spacing, gives what the gland in its cube gives."""
    row = datalist("adrenalmnist3d", phantom_of(ADRENAL), "test")[0]
    shape = (read_row(row["image"]) > 0).astype(np.uint8)
    images = tmp_path / "images"
    images.mkdir()
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    large = np.pad(shape, ((11, 40), (30, 3), (5, 60)))
    nib.save(nib.Nifti1Image(large, lps), images / "large.nii.gz")
    turned = nib.Nifti1Image(large * 7, lps).as_reoriented(
        nib.orientations.axcodes2ornt(("S", "R", "A"), (("L", "R"), ("P", "A"), ("I", "S")))
    )
    nib.save(turned, images / "turned.nii.gz")
    fine = np.kron(shape, np.ones((2, 2, 2), np.uint8))
    nib.save(nib.Nifti1Image(fine, np.diag([-0.5, -0.5, 0.5, 1.0])), images / "fine.nii.gz")
    model = trained(ADRENAL) / "model.pt"
    rows = classify(ADRENAL, images, tmp_path / "out", model)
    (whole,) = [
        found
        for case, found in classify(ADRENAL, phantom_of(ADRENAL), tmp_path / "rows", model).items()
        if case == row["case"]
    ]
    for case, tolerance in (("large", 2e-4), ("turned", 2e-4), ("fine", 0.05)):
        expected = float(whole["probability_hyperplasia"])
        assert float(rows[case]["probability_hyperplasia"]) == pytest.approx(expected, abs=tolerance), case


def infer(bundle: Path, model: Path, folder: Path, images: Path) -> Outcome:
    options = {"dataset_dir": str(images), "output_dir": str(folder), "model_path": str(model)}
    options["network_def#feature_size"] = 8
    return monai_bundle("run", "--config_file", str(bundle / "configs" / "inference.json"), *arguments(**options))


def test_an_empty_outline_ends_in_a_sentence(trained: Callable[[Path], Path], tmp_path: Path) -> None:
    array = np.zeros((20, 20, 20), np.uint8)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "empty.nii.gz")
    result = infer(ADRENAL, trained(ADRENAL) / "model.pt", tmp_path / "out", tmp_path / "empty.nii.gz")
    assert "constant" in result.sentence or "empty" in result.sentence


def test_a_damaged_archive_ends_in_a_sentence(
    trained: Callable[[Path], Path], phantom_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    source = next(phantom_of(ADRENAL).glob("*.npz"))
    (tmp_path / source.name).write_bytes(source.read_bytes()[:-2000])
    result = infer(ADRENAL, trained(ADRENAL) / "model.pt", tmp_path / "out", tmp_path)
    assert str(tmp_path / source.name) in result.sentence


@pytest.mark.slow
@every_bundle
@pytest.mark.parametrize("mixer", ["seqnorm", "hyena_nd"])
def test_another_mixer(bundle: Path, mixer: str, phantom_of: Callable[[Path], Path], tmp_path: Path) -> None:
    train(bundle, phantom_of(bundle), tmp_path, max_epochs=1, **{"network_def#mixer": mixer})
    assert (tmp_path / "model.pt").is_file()


@pytest.mark.slow
@every_bundle
def test_shipped_weights_on_real_images(bundle: Path, real_data: Path, tmp_path: Path) -> None:
    folder = real_data / load_manifest(data_of(bundle)).folder
    if not folder.is_dir():
        pytest.skip(f"no {folder.name} in {real_data}")
    case = CASES[bundle.name]
    paths = {"dataset_dir": str(folder), "output_dir": str(tmp_path), "model_path": str(bundle / "models" / "model.pt")}
    options = {"device": "$torch.device('cpu')", "num_workers": 0, "mirror_axes": []}
    complete(workflow(bundle, ["train.json", "evaluate.json"], "eval", **options, **paths))
    assert float(metrics(tmp_path)[case.metric]["value"]) == pytest.approx(case.headline, abs=case.tolerance)
