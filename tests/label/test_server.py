"""Every bundle in a MONAI Label server: listed, asked, taught by an annotator's labels, asked again, scored."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.utils import set_determinism
from PIL import Image

from monai_ext.bundle.errors import mistake_in
from monai_ext.data import datalist
from monai_ext.label.app import app_of_monailabel, set_up_app
from tests.bundles.running import BUNDLES, data_of
from tests.label.serving import Served, own_inference, serving, short_copy

pytest.importorskip("monailabel", reason="MONAI Label is not installed (make test-label)")

FOLDERS = {path.name: path for path in BUNDLES}
HIPPOCAMPUS, RETINA = "hippocampus_mri_segmentation", "retinal_vessel_segmentation"
ADRENAL, BLOOD = "adrenal_ct_classification", "blood_cell_classification"
BRAIN, CELLS = "brain_mri_denoising", "fluorescence_microscopy_denoising"

# oblique, its axes permuted and one turned, spacing 1.2 x 0.9 x 1.1 mm
TURN = np.array(
    [
        [0.0, -0.9, 0.0],
        [1.2 * math.cos(0.2), 0.0, -1.1 * math.sin(0.2)],
        [1.2 * math.sin(0.2), 0.0, 1.1 * math.cos(0.2)],
    ]
)
OBLIQUE = np.block([[TURN, np.array([[30.0], [-12.0], [7.0]])], [np.zeros((1, 3)), np.ones((1, 1))]])


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """A training in the process sets seeds."""
    yield
    set_determinism(None)


@pytest.fixture(scope="module")
def cases(phantom_of: Callable[[Path], Path]) -> Callable[[str, int], list[dict[str, Any]]]:
    """The first items of the data list of a bundle's phantom."""
    return lambda name, number: datalist(data_of(FOLDERS[name]), phantom_of(FOLDERS[name]), "all")[:number]


def tilted(path: str, target: Path) -> Path:
    """A volume or a label map on a grid that is oblique."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), OBLIQUE), target)
    return target


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def hippocampus(
    cases: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, list[Path], list[Path]]]:
    """The server, its images and labels for them."""
    folder = tmp_path_factory.mktemp("hippocampus")
    (folder / "studies").mkdir()
    (folder / "labels").mkdir()
    items = cases(HIPPOCAMPUS, 3)
    images = [tilted(item["image"], folder / "studies" / f"scan{number}.nii.gz") for number, item in enumerate(items)]
    labels = [tilted(item["label"], folder / "labels" / f"scan{number}.nii.gz") for number, item in enumerate(items)]
    bundle = short_copy(FOLDERS[HIPPOCAMPUS], folder / "bundle", mirror_axes=[0])
    with serving(bundle, folder / "studies", folder / "app", epistemic_model=HIPPOCAMPUS) as served:
        yield served, images, labels


class TestHippocampus:
    """In this order, as an annotator meets it."""

    def test_it_is_listed(self, hippocampus: Any) -> None:
        served, _, _ = hippocampus
        info = served.info()
        model = info["models"][HIPPOCAMPUS]
        assert (model["type"], model["dimension"]) == ("segmentation", 3)
        assert model["labels"] == {"anterior": 1, "posterior": 2} and info["labels"] == ["anterior", "posterior"]
        assert model["config"]["model_filename"] == ["model.pt", "shipped.pt"]
        assert set(info["trainers"]) == set(info["scoring"]) == {HIPPOCAMPUS}

    def test_the_answer_is_the_bundles_own(self, hippocampus: Any, tmp_path: Path) -> None:
        served, images, _ = hippocampus
        answer = served.infer(HIPPOCAMPUS, "scan0")
        own = nib.load(own_inference(served.bundle(HIPPOCAMPUS), images[0], tmp_path))
        np.testing.assert_allclose(answer.affine, nib.load(images[0]).affine, atol=1e-4)
        assert answer.shape == nib.load(images[0]).shape and answer.get_data_dtype() == np.uint8
        assert np.array_equal(np.asanyarray(answer.dataobj), np.asanyarray(own.dataobj))
        assert set(np.unique(answer.get_fdata())) == {0, 1, 2}

    def test_it_scores_by_uncertainty(self, hippocampus: Any) -> None:
        served, _, _ = hippocampus
        assert served.score(HIPPOCAMPUS, simulation_size=3, max_samples=2)["executed"] == 2
        scores = [entry["image"]["info"].get("epistemic_entropy") for entry in served.images().values()]
        scores = [score for score in scores if score is not None]
        assert len(scores) == 2 and all(0 < score < math.log(3) for score in scores), scores

    def test_nothing_to_learn_from(self, hippocampus: Any) -> None:
        served, _, _ = hippocampus
        with pytest.raises(RuntimeError) as caught:
            served.train(HIPPOCAMPUS, max_epochs=1)
        assert mistake_in(caught.value) == (
            "the data list is empty; check dataset_dir and the split, in MONAI Label submit a label first."
        )

    def test_it_learns_and_serves_what_it_learnt(self, hippocampus: Any, tmp_path: Path) -> None:
        served, images, labels = hippocampus
        before = served.infer(HIPPOCAMPUS, "scan2").get_fdata()
        for number in (0, 1):
            served.submit(f"scan{number}", labels[number])
        models = served.bundle(HIPPOCAMPUS) / "models"
        served.train(HIPPOCAMPUS, max_epochs=2, val_split=0.5)
        assert not same(weights(models / "model.pt"), weights(models / "shipped.pt"))
        assert same(weights(models / "shipped.pt"), weights(FOLDERS[HIPPOCAMPUS] / "models" / "model.pt"))

        after = served.infer(HIPPOCAMPUS, "scan2")
        own = own_inference(served.bundle(HIPPOCAMPUS), images[2], tmp_path)
        assert np.array_equal(after.get_fdata(), nib.load(own).get_fdata()) and not np.array_equal(
            after.get_fdata(), before
        )
        shipped = served.infer(HIPPOCAMPUS, "scan2", model_filename="shipped.pt")
        assert np.array_equal(shipped.get_fdata(), before), "a viewer can go back to the weights that came"

    @pytest.mark.parametrize("options", [{"max_epochs": 1, "val_split": 0}, {"max_epochs": 1, "val_split": 0.2}])
    def test_it_begins_with_what_is_there(self, hippocampus: Any, options: dict[str, Any]) -> None:
        """Two labels and nothing to validate on; the training begins with model.pt and leaves weights near it."""
        served, _, _ = hippocampus
        path = served.bundle(HIPPOCAMPUS) / "models" / "model.pt"
        before = weights(path)
        served.train(HIPPOCAMPUS, **options)
        after = weights(path)
        assert not same(before, after)
        change = sum((after[name] - value).float().square().sum() for name, value in before.items())
        size = sum(value.float().square().sum() for value in before.values())
        assert float(change / size) < 0.2, "averaged with a network that knew nothing"


@pytest.fixture(scope="module")
def retina(cases: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, list[Path], list[Path]]]:
    """The server, its images and labels for them."""
    folder = tmp_path_factory.mktemp("retina")
    (folder / "studies").mkdir()
    items = cases(RETINA, 3)
    images, labels = [], [Path(item["label"]) for item in items]
    for number, item in enumerate(items):
        picture = Image.open(item["image"]).crop((0, 0, 96, 80))  # wider than high
        images.append(folder / "studies" / f"eye{number}{Path(item['image']).suffix}")
        picture.save(images[-1])
        labels[number] = folder / f"eye{number}.png"
        Image.open(item["label"]).crop((0, 0, 96, 80)).save(labels[number])
    bundle = short_copy(FOLDERS[RETINA], folder / "bundle", patch_size=[32, 32], window=[96, 96])
    with serving(bundle, folder / "studies", folder / "app", epistemic_model=RETINA) as served:
        yield served, images, labels


class TestRetina:
    """In this order."""

    def test_it_is_listed(self, retina: Any) -> None:
        model = retina[0].info()["models"][RETINA]
        assert (model["type"], model["dimension"], model["labels"]) == ("segmentation", 2, {"vessel": 1})

    def test_the_answer_is_the_bundles_own(self, retina: Any, tmp_path: Path) -> None:
        served, images, _ = retina
        answer = served.infer(RETINA, "eye0")
        own = np.asarray(Image.open(own_inference(served.bundle(RETINA), images[0], tmp_path)))
        assert answer.dtype == np.uint8 and answer.shape == np.asarray(Image.open(images[0])).shape[:2] == (80, 96)
        assert np.array_equal(answer * 255, own)

    def test_it_scores_by_uncertainty(self, retina: Any) -> None:
        served, _, _ = retina
        assert served.score(RETINA, simulation_size=2)["executed"] == 3
        scores = [entry["image"]["info"]["epistemic_entropy"] for entry in served.images().values()]
        assert all(0 < score < math.log(2) for score in scores), scores

    def test_it_learns_and_serves_what_it_learnt(self, retina: Any, tmp_path: Path) -> None:
        served, images, labels = retina
        for number in (0, 1):
            served.submit(f"eye{number}", labels[number])
        before = served.infer(RETINA, "eye2")
        served.train(RETINA, max_epochs=2, val_split=0.5)
        own = own_inference(served.bundle(RETINA), images[2], tmp_path)
        after = served.infer(RETINA, "eye2")
        assert np.array_equal(after * 255, np.asarray(Image.open(own))) and not np.array_equal(after, before)

    def test_its_own_answers_can_be_labels(self, retina: Any) -> None:
        """They hold 0 and 1, the data set's 0 and 255."""
        served, _, _ = retina
        answer = max((served.app_dir / "answers").glob("*.png"), key=lambda path: np.asarray(Image.open(path)).sum())
        assert np.asarray(Image.open(answer)).max() == 1
        served.submit("eye2", answer)
        served.train(RETINA, max_epochs=1, val_split=0)


@pytest.mark.parametrize(("name", "classes"), [(ADRENAL, 2), (BLOOD, 3)])
def test_classification(name: str, classes: int, cases: Any, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (item,) = cases(name, 1)
    image = tmp_path / "studies" / ("gland.nii.gz" if name == ADRENAL else "cell.png")
    if name == ADRENAL:
        ball = np.linalg.norm(np.indices((40, 36, 30)) - np.array([[[[20]]], [[[18]]], [[[15]]]]), axis=0) < 9
        nib.save(nib.Nifti1Image(ball.astype(np.uint8), np.diag([1.0, 1.0, 1.2, 1.0])), image)
    else:
        Image.open(item["image"]).save(image)
    with serving(FOLDERS[name], tmp_path / "studies", tmp_path / "app") as served:
        info = served.info()
        answer = served.infer(name, image.name.split(".")[0], output="json")["prediction"]
    model = info["models"][name]
    assert model["type"] == "classification" and len(model["labels"]) == classes and not info["trainers"]
    with own_inference(FOLDERS[name], image, tmp_path / "own").open(newline="") as file:
        (row,) = csv.DictReader(file)
    names = [key.removeprefix("probability_") for key in row if key.startswith("probability_")]
    assert [(entry["idx"], entry["label"]) for entry in answer] == list(enumerate(names))
    expected = [float(row[f"probability_{name}"]) for name in names]
    np.testing.assert_allclose([entry["score"] for entry in answer], expected, atol=1e-5)


def test_a_box_is_classified(cases: Any, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (item,) = cases(BLOOD, 1)
    picture = Image.open(item["image"])
    picture.save(tmp_path / "studies" / "smear.png")
    with serving(FOLDERS[BLOOD], tmp_path / "studies", tmp_path / "app") as served:
        whole = served.infer(BLOOD, "smear", output="json")["prediction"]
        part = served.infer(BLOOD, "smear", output="json", box=[5, 6, 30, 31])["prediction"]
    assert [entry["score"] for entry in whole] != [entry["score"] for entry in part]


def test_denoising_of_a_volume(cases: Any, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    image = tilted(cases(BRAIN, 1)[0]["image"], tmp_path / "studies" / "scan.nii.gz")
    bundle = short_copy(FOLDERS[BRAIN], tmp_path)
    with serving(bundle, tmp_path / "studies", tmp_path / "app") as served:
        answers = [served.infer(BRAIN, "scan"), served.infer(BRAIN, "scan", result_dtype="float32")]
        rounded = served.infer(BRAIN, "scan", result_dtype="uint8")
    own = nib.load(own_inference(bundle, image, tmp_path / "own"))
    for answer in answers:
        assert answer.get_data_dtype() == np.float32
        np.testing.assert_allclose(answer.affine, OBLIQUE, atol=1e-4)
        np.testing.assert_allclose(answer.get_fdata(), own.get_fdata(), rtol=1e-5)
    assert rounded.get_data_dtype() == np.uint8


def test_denoising_of_a_picture(cases: Any, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    picture = Image.open(cases(CELLS, 1)[0]["image"]).crop((0, 0, 64, 48))
    for suffix in (".tif", ".png"):
        picture.save(tmp_path / "studies" / f"cells_{suffix[1:]}{suffix}")
    bundle = short_copy(FOLDERS[CELLS], tmp_path, window=[64, 64])
    with serving(bundle, tmp_path / "studies", tmp_path / "app") as served:
        answers = [served.infer(CELLS, f"cells_{kind}") for kind in ("tif", "png")]
        as_nifti = served.infer(CELLS, "cells_png", result_extension=".nii.gz", result_dtype="float32")
    own = np.asarray(Image.open(own_inference(bundle, tmp_path / "studies" / "cells_tif.tif", tmp_path / "own")))
    for answer in answers:
        assert answer.dtype == np.float32 and answer.shape == (48, 64)
        np.testing.assert_allclose(np.round(answer), own, atol=1)
    np.testing.assert_allclose(as_nifti.get_fdata().squeeze().T, answers[1], rtol=1e-5)


def test_a_slice_keeps_its_geometry(cases: Any, tmp_path: Path) -> None:
    """A NIfTI file with one slice, for a bundle of pictures."""
    (tmp_path / "studies").mkdir()
    picture = np.asarray(Image.open(cases(CELLS, 1)[0]["image"]).convert("L").crop((0, 0, 64, 48)), dtype=np.float32)
    affine = np.diag([-0.5, 0.4, 3.0, 1.0])
    nib.save(nib.Nifti1Image(picture.T[..., None], affine), tmp_path / "studies" / "slice.nii.gz")
    bundle = short_copy(FOLDERS[CELLS], tmp_path, window=[64, 64])
    with serving(bundle, tmp_path / "studies", tmp_path / "app") as served:
        answer = served.infer(CELLS, "slice")
    assert answer.shape == (64, 48, 1)
    np.testing.assert_allclose(answer.affine, affine, atol=1e-5)


def test_its_app_is_told_from_its_others(tmp_path: Path) -> None:
    ours = app_of_monailabel()
    assert ours.name == "monaibundle"
    for source in (path for path in ours.parent.iterdir() if (path / "main.py").is_file()):
        target = tmp_path / source.name
        target.mkdir()
        (target / "main.py").write_bytes((source / "main.py").read_bytes())
        if source == ours:
            set_up_app(target, [], ours)
        else:
            with pytest.raises(FileExistsError, match="is another app than MONAI Label's monaibundle"):
                set_up_app(target, [], ours)


def test_every_bundle_is_tried() -> None:
    assert set(FOLDERS) == {HIPPOCAMPUS, RETINA, ADRENAL, BLOOD, BRAIN, CELLS}
