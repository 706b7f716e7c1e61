from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_ext.data import case_counts, datalist, load_manifest
from monai_ext.data.check import check_dataset
from monai_ext.data.phantom import PHANTOMS, Phantom, choose_cases, draw_phantom

NAME = "task04_hippocampus"


def voxels(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(np.asanyarray(nib.load(path).dataobj).tobytes()).hexdigest()
        for path in sorted(folder.rglob("*.nii.gz"))
    }


def test_layout_is_the_official_one(phantom: Path) -> None:
    content = json.loads((phantom / "dataset.json").read_text())
    assert phantom.name == "Task04_Hippocampus" and content["numTraining"] == len(content["training"]) == 12
    assert "phantom" in content["description"].lower() and "phantom" in content["reference"].lower()
    maxima, labels = [], set()
    for entry in content["training"]:
        image, label = nib.load(phantom / entry["image"]), nib.load(phantom / entry["label"])
        assert all(low <= n <= high for n, low, high in zip(image.shape, (31, 40, 24), (43, 59, 47), strict=True))
        assert image.header.get_zooms() == (1, 1, 1) and image.header.get_xyzt_units()[0] == "mm"
        assert label.get_data_dtype() == np.uint8 and image.get_data_dtype() in (np.uint8, np.float32)
        maxima.append(float(np.asanyarray(image.dataobj).max()))
        labels.add(tuple(np.unique(np.asanyarray(label.dataobj))))
    assert labels == {(0, 1, 2)}
    assert max(maxima) > 5 * min(maxima)
    report = check_dataset(NAME, phantom, progress=False)
    assert report.phantom and not report.findings


def test_same_seed_same_voxels_whatever_the_number_of_cases(phantom: Path, tmp_path: Path) -> None:
    few = draw_phantom(NAME, tmp_path / "few", cases=3, seed=3, progress=False)
    drawn, all_drawn = voxels(few), voxels(phantom)
    shared = drawn.keys() & all_drawn.keys()
    assert shared and all(drawn[path] == all_drawn[path] for path in shared)
    assert len(set(all_drawn.values())) == 24
    other = draw_phantom(NAME, tmp_path / "few", cases=3, seed=4, progress=False)  # replaces the earlier phantom
    assert voxels(other).keys() == drawn.keys() and not set(voxels(other).values()) & set(drawn.values())


@pytest.mark.parametrize(
    ("cases", "shares"), [(3, (1, 1, 1)), (12, (10, 1, 1)), (40, (32, 4, 4)), (260, (208, 26, 26))]
)
def test_every_split_has_its_share(cases: int, shares: tuple[int, int, int]) -> None:
    manifest = load_manifest(NAME)
    splits = [manifest.split_of(case) for _, case in choose_cases(manifest, PHANTOMS[NAME], cases)]
    assert tuple(splits.count(split) for split in ("train", "validation", "test")) == shares


def test_the_data_list_reads_it(phantom: Path) -> None:
    assert len(datalist(NAME, phantom.parent, "train")) == 10
    assert case_counts(NAME, phantom)["present"] == 12


def test_no_grey_window_finds_the_body(phantom: Path) -> None:
    """Even the best window, chosen with the answer known, per volume: the task is not thresholding."""
    best = []
    for entry in datalist(NAME, phantom, "all")[:4]:
        image = np.asanyarray(nib.load(entry["image"]).dataobj).ravel().astype(float)
        body = np.asanyarray(nib.load(entry["label"]).dataobj).ravel() > 0
        steps = np.quantile(image, np.linspace(0, 1, 21))
        hits, sizes = np.histogram(image[body], steps)[0].cumsum(), np.histogram(image, steps)[0].cumsum()
        hits, sizes = np.append(0, hits), np.append(0, sizes)
        inside, chosen = hits[None] - hits[:, None], sizes[None] - sizes[:, None]
        best.append((2 * inside / (chosen + body.sum()).clip(1)).max())
    assert np.mean(best) < 0.5


def test_other_data_are_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "Task04_Hippocampus"
    folder.mkdir()
    (folder / "dataset.json").write_text('{"reference": "Vanderbilt University Medical Center"}')
    with pytest.raises(FileExistsError, match="no phantom"):
        draw_phantom(NAME, tmp_path, cases=3, progress=False)
    assert [path.name for path in folder.iterdir()] == ["dataset.json"]


def test_an_interrupted_phantom_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = voxels(draw_phantom(NAME, tmp_path, cases=3, progress=False))
    calls = []

    def stop_at_the_second(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        calls.append(rng)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8)

    monkeypatch.setitem(PHANTOMS, NAME, Phantom(stop_at_the_second, "hippocampus_{:03d}", range(1, 1000)))
    with pytest.raises(KeyboardInterrupt):
        draw_phantom(NAME, tmp_path, cases=3, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["Task04_Hippocampus"]
    assert voxels(tmp_path / "Task04_Hippocampus") == before


@pytest.mark.parametrize(
    "wrong", [{"cases": 2}, {"cases": 100000}, {"cases": "many"}, {"seed": -1}, {"seed": 0.5}, {"cases": True}]
)
def test_impossible_numbers_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"--{next(iter(wrong))}"):
        draw_phantom(NAME, tmp_path / "new", **wrong, progress=False)
    assert not (tmp_path / "new").exists()
