"""Bundles made from someone's own images, in a MONAI Label server."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.utils import set_determinism
from PIL import Image

from monai_ext.bundle.choose import LADDERS
from monai_ext.bundle.new import Source, new_bundle
from tests.bundle import own_data
from tests.bundle.test_new import CPU, TINY
from tests.bundles.running import complete, workflow
from tests.label.serving import own_inference, serving, shorten

pytest.importorskip("monailabel", reason="MONAI Label is not installed (make test-label)")


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for task, dims in LADDERS:
        monkeypatch.setitem(LADDERS, (task, dims), [TINY[task]])  # type: ignore[arg-type]
    yield
    set_determinism(None)


def trained(task: str, source: Source, out: Path) -> Path:
    """A new bundle after a short training; what it trains in the server is as short."""
    bundle = new_bundle("mine", task, source, out=str(out), memory="8GB", device="cpu", progress=False).root
    assert bundle is not None
    complete(workflow(shorten(bundle), ["train.json"], "train", output_dir=str(out / "runs"), max_epochs=1, device=CPU))
    return bundle


def test_volumes_whose_labels_have_gaps(tmp_path: Path) -> None:
    """Values 0, 1 and 3 are classes 0, 1 and 2 in its answers and where annotators teach it."""
    data, studies = own_data.volumes(tmp_path / "data"), tmp_path / "studies"
    studies.mkdir()
    for path in (data / "labelsTr").iterdir():
        mask = np.asanyarray(nib.load(path).dataobj).astype(np.uint8)
        mask[:, :, : mask.shape[2] // 2] *= 3
        own_data.save_volume(path, mask)
    for number in range(3):
        (studies / f"s{number}.nii.gz").write_bytes((data / "imagesTr" / f"case_0{number}.nii.gz").read_bytes())
    bundle = trained("segmentation", Source(str(data), class_names="front,back"), tmp_path / "out")
    with serving(bundle, studies, tmp_path / "app") as served:
        info = served.info()
        assert info["models"][bundle.name]["labels"] == {"front": 1, "back": 2} and list(info["trainers"])
        answer = served.infer(bundle.name, "s0")
        own = nib.load(own_inference(served.bundle(bundle.name), studies / "s0.nii.gz", tmp_path / "own"))
        stored = np.array([0, 1, 3])[np.asanyarray(answer.dataobj)]
        assert np.array_equal(stored, np.asanyarray(own.dataobj))
        for number in range(2):
            drawn = np.asanyarray(nib.load(data / "labelsTr" / f"case_0{number}.nii.gz").dataobj)
            served.submit(
                f"s{number}",
                own_data.save_volume(tmp_path / f"l{number}.nii.gz", (drawn > 0).astype(np.uint8) + (drawn > 1)),
            )
        before = (served.bundle(bundle.name) / "models" / "model.pt").read_bytes()
        served.train(bundle.name, max_epochs=1, val_split=0.5)
        assert (served.bundle(bundle.name) / "models" / "model.pt").read_bytes() != before


@pytest.mark.parametrize("task", ["segmentation", "denoising"])
def test_pictures(task: str, tmp_path: Path) -> None:
    data, studies = tmp_path / "data", tmp_path / "studies"
    studies.mkdir()
    if task == "segmentation":
        source, image = Source(str(own_data.pictures(data))), data / "eye 0é.png"
    else:
        own_data.noisy_pairs(data)
        source, image = Source(str(data / "noisy"), str(data / "clean")), data / "noisy" / "cell_0_low.png"
    (studies / "a.png").write_bytes(image.read_bytes())
    bundle = trained(task, source, tmp_path / "out")
    with serving(bundle, studies, tmp_path / "app") as served:
        assert (bundle.name in served.info()["trainers"]) == (task == "segmentation")
        answer = served.infer(bundle.name, "a")
        own = np.asarray(Image.open(own_inference(served.bundle(bundle.name), studies / "a.png", tmp_path / "own")))
        assert np.asarray(answer).squeeze().shape == own.shape[:2]
        if task == "denoising":
            assert np.abs(np.asarray(answer, float).squeeze() - own).max() <= 1


def test_classes(tmp_path: Path) -> None:
    data, studies = own_data.classes(tmp_path / "data"), tmp_path / "studies"
    studies.mkdir()
    (studies / "a.png").write_bytes((data / "dark" / "0.png").read_bytes())
    bundle = trained("classification", Source(str(data)), tmp_path / "out")
    with serving(bundle, studies, tmp_path / "app") as served:
        answer = served.infer(bundle.name, "a", output="json")["prediction"]
    assert [entry["label"] for entry in answer] == ["bright", "dark"]
    assert math.isclose(sum(entry["score"] for entry in answer), 1, rel_tol=1e-4)
