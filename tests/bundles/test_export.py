"""Exported bundles where the package cannot be imported: they run, and give what the originals give."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from monai_ext.bundle.check import check_bundle
from monai_ext.bundle.checks import CHECKS
from monai_ext.bundle.export import export_bundle
from monai_ext.bundle.new import Source, new_bundle
from monai_ext.data import datalist, load_manifest
from monai_ext.data.listed import listed
from tests.bundle import own_data
from tests.bundles import test_retinal
from tests.bundles.running import BUNDLES, ROOT, TINY, data_of, fresh_python

# a 2D and a 3D bundle, made small
TINY_TRAINING = {"hippocampus_mri_segmentation": TINY, "retinal_vessel_segmentation": test_retinal.TINY}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """A bundle's export, without TorchScript; read it, never write to it."""
    out = tmp_path_factory.mktemp("exported")

    def of(bundle: Path) -> Path:
        folder = out / bundle.name
        return folder if folder.exists() else export_bundle(bundle, out, torchscript=False).folder

    return of


def run_jobs(folder: Path, jobs: Sequence[dict[str, Any]], without_package: bool) -> None:
    """Run workflows in a new process that starts in an empty folder."""
    folder.mkdir(parents=True)
    task = folder / "jobs.json"
    task.write_text(json.dumps({"without_package": without_package, "jobs": list(jobs)}), encoding="utf-8")
    outcome = fresh_python(str(ROOT / "tests" / "bundles" / "run_jobs.py"), str(task), cwd=folder, seconds=900)
    assert outcome.code == 0, outcome.text[-4000:]


def one_case(bundle: Path, phantom: Path) -> str:
    """What inference is given: an image, or all images where they are rows of an array."""
    name = data_of(bundle)
    if load_manifest(name).arrays:
        return str(phantom)
    image = datalist(name, phantom, "test")[0]["image"]
    return str(image[0] if isinstance(image, list) else image)


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_inference_is_that_of_the_original(
    exported: Callable[[Path], Path], phantom_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    """All bundles in one process: the code that each carries does not stand in the way of the others'."""

    def jobs(of: Callable[[Path], Path], out: str) -> list[dict[str, Any]]:
        return [
            {
                "bundle": str(of(bundle)),
                "files": ["inference.json"],
                "kind": "infer",
                "overrides": {
                    "dataset_dir": one_case(bundle, phantom_of(bundle)),
                    "output_dir": str(tmp_path / out / bundle.name),
                    "device": "$torch.device('cpu')",
                    "mirror_axes": [],  # once instead of up to four times
                },
            }
            for bundle in BUNDLES
        ]

    run_jobs(tmp_path / "first", jobs(lambda bundle: bundle, "original"), without_package=False)
    run_jobs(tmp_path / "second", jobs(exported, "exported"), without_package=True)
    for bundle in BUNDLES:
        original, found = (written(tmp_path / kind / bundle.name) for kind in ("original", "exported"))
        assert original and found.keys() == original.keys(), bundle.name
        for file, content in original.items():
            assert found[file] == content, f"{bundle.name}: {file} differs"


@pytest.mark.slow
def test_training_resuming_and_evaluation(
    exported: Callable[[Path], Path], phantom_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Two steps, two more after resuming, and the evaluation of what was trained."""
    jobs = []
    for name, tiny in TINY_TRAINING.items():
        bundle = ROOT / "bundles" / name
        folder = tmp_path / name
        paths = {"dataset_dir": str(phantom_of(bundle)), "output_dir": str(folder), "model_path": str(folder / "m.pt")}
        size = {key: value for key, value in tiny.items() if key in ("device", "patch_size", "window")}
        size |= {key: value for key, value in tiny.items() if key.startswith("network_def#")}
        for files, kind, options in (
            (["train.json"], "train", {**tiny, **paths, "max_epochs": 1}),
            (["train.json"], "train", {**tiny, **paths, "max_epochs": 2, "resume": True}),
            (["train.json", "evaluate.json"], "eval", {**size, **paths, "num_workers": 0}),
        ):
            job = {"bundle": str(exported(bundle)), "files": files, "kind": kind, "overrides": options}
            jobs.append(job)
    run_jobs(tmp_path / "run", jobs, without_package=True)
    for name in TINY_TRAINING:
        assert (tmp_path / name / "m.pt").is_file() and (tmp_path / name / "metrics.csv").is_file(), name


def test_the_export_is_whole(exported: Callable[[Path], Path], hippocampus: Path) -> None:
    folder = exported(hippocampus)
    for file in ("LICENSE", "README.md", "models/model.pt", "docs/README.md", "configs/metadata.json"):
        assert (folder / file).is_file(), file
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert "monai-ext" not in metadata["required_packages_version"]
    assert metadata["required_packages_version"]["jsonschema"]  # which the code imports and the bundle did not name
    for path in (folder / "configs").glob("*.json"):
        if path.name != "metadata.json":
            assert "monai_ext" not in path.read_text(), path.name
    for path in (folder / "scripts").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) monai_ext", path.read_text(), re.MULTILINE), path
    readme = (folder / "docs" / "README.md").read_text()
    assert "bundles/" not in readme and "monai_ext" not in readme
    with zipfile.ZipFile(folder.with_suffix(".zip")) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert {name.split("/")[0] for name in names} == {folder.name}
        assert archive.read(f"{folder.name}/models/model.pt") == (hippocampus / "models" / "model.pt").read_bytes()


def test_the_export_passes_the_checks(exported: Callable[[Path], Path], hippocampus: Path) -> None:
    report = check_bundle(exported(hippocampus))
    assert report.ok, report.table()


def test_the_same_bundle_gives_the_same_bytes(
    exported: Callable[[Path], Path], hippocampus: Path, tmp_path: Path
) -> None:
    again = export_bundle(hippocampus, tmp_path / "elsewhere", torchscript=False)
    assert again.archive.read_bytes() == exported(hippocampus).with_suffix(".zip").read_bytes()


@pytest.mark.slow
def test_torchscript_and_onnx_are_made_alike_and_compared(hippocampus: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    first = export_bundle(hippocampus, tmp_path / "a", onnx=True)
    second = export_bundle(hippocampus, tmp_path / "b" / "c")
    assert set(first.differences) == {"models/model.ts", "models/model.onnx"}
    assert max(first.differences.values()) < 1e-4
    traced = [made.folder / "models" / "model.ts" for made in (first, second)]
    assert traced[0].read_bytes() == traced[1].read_bytes()
    assert str(tmp_path).encode() not in (first.folder / "models" / "model.ts").read_bytes()


def test_an_export_is_not_overwritten(hippocampus: Path, tmp_path: Path) -> None:
    export_bundle(hippocampus, tmp_path, torchscript=False)
    with pytest.raises(FileExistsError, match="--overwrite"):
        export_bundle(hippocampus, tmp_path, torchscript=False)
    assert export_bundle(hippocampus, tmp_path, torchscript=False, overwrite=True).archive.is_file()


def test_nothing_is_left_of_a_failed_export(hippocampus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> float:
        raise ValueError("model.ts does not give what model.pt gives")

    monkeypatch.setattr("monai_ext.bundle.export.add_torchscript", fail)
    with pytest.raises(ValueError, match="does not give"):
        export_bundle(hippocampus, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_missing_is_named(hippocampus: Path, tmp_path: Path) -> None:
    untrained = tmp_path / "untrained"
    shutil.copytree(hippocampus, untrained, ignore=shutil.ignore_patterns("model.pt"))
    with pytest.raises(FileNotFoundError, match=r"untrained has no models/model\.pt.*train the bundle first"):
        export_bundle(untrained, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="No bundle nowhere: there are"):
        export_bundle("nowhere", tmp_path / "out")
    with pytest.raises(ValueError, match="the bundle's own place"):
        export_bundle(hippocampus, hippocampus.parent)


def test_a_bundle_of_ones_own(hippocampus: Path, tmp_path: Path) -> None:
    """Its name is no Python name, its manifest lies inside, and it holds what runs left."""
    own = tmp_path / "2 my-own"
    shutil.copytree(hippocampus, own)
    manifest = load_manifest("task04_hippocampus").content
    (own / "configs" / "my_data.json").write_text(json.dumps(manifest))
    train = own / "configs" / "train.json"
    train.write_text(
        train.read_text().replace("datalist('task04_hippocampus',", "datalist(@bundle_root + '/configs/my_data.json',")
    )
    (own / "runs").mkdir()
    (own / "runs" / "state.pt").write_bytes(b"large")
    (own / "models" / "model_epoch_3.pt").write_bytes(b"large")
    (own / "notes.txt").write_text("mine")
    folder = export_bundle(own, tmp_path / "out", torchscript=False).folder
    assert not (folder / "runs").exists() and not (folder / "models" / "model_epoch_3.pt").exists()
    assert (folder / "notes.txt").is_file() and (folder / "scripts" / "_2_my_own" / "networks").is_dir()
    assert (folder / "configs" / "my_data.json").read_bytes() == (own / "configs" / "my_data.json").read_bytes()
    assert "@scripts.datalist(@bundle_root + '/configs/my_data.json'" in (folder / "configs" / "train.json").read_text()
    checks = {name: CHECKS[name] for name in ("required files", "targets", "ids", "input and output")}
    report = check_bundle(folder, checks)
    assert report.ok, report.table()


@pytest.mark.slow
def test_an_export_of_someone_s_data_takes_the_list_and_no_folder_of_theirs(tmp_path: Path) -> None:
    data = own_data.volumes(tmp_path / "private")
    made = new_bundle("mine", "segmentation", Source(str(data)), str(tmp_path / "made"), "2GB", progress=False)
    assert made.root is not None
    parser = ConfigParser(ConfigParser.load_config_file(str(made.root / "configs" / "inference.json")))
    (made.root / "models").mkdir(exist_ok=True)
    torch.save(parser.get_parsed_content("network_def").state_dict(), made.root / "models" / "model.pt")
    (made.root / "data" / "image.nii.gz").write_bytes(b"an image that lies there")
    folder = export_bundle(made.root, tmp_path / "out", torchscript=False, large_files_url="https://example.org").folder
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if str(tmp_path) in path.read_bytes().decode(errors="ignore")]
    assert [path.name for path in (folder / "data").iterdir()] == ["datalist.json"]
    assert len(listed(folder / "data" / "datalist.json", data, "all")) == 5
    assert check_bundle(folder).ok
