"""An exported bundle: its files, its texts, what is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from monai_ext import __main__ as program
from monai_ext.bundle import models
from monai_ext.bundle.check import check_bundle
from monai_ext.bundle.export import export_bundle, sha256
from monai_ext.cli import main
from tests.bundle.toy_bundle import change, make

NAME = "toy_mri_segmentation"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    return make(tmp_path_factory.mktemp("toy"), repository)


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the process that tries the exported bundle, for tests of something else."""
    monkeypatch.setattr("monai_ext.bundle.export._try", lambda folder, made: None)


@pytest.fixture(scope="module")
def exported(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return export_bundle(str(toy), tmp_path_factory.mktemp("out"))


def test_the_folder(exported: tuple[Path, Path]) -> None:
    folder, _ = exported
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"LICENSE", "README.md", "docs/README.md", "models/model.pt", "models/model.ts"} <= names
    assert {"scripts/__init__.py", f"scripts/{NAME}/networks/swin_unetr.py"} <= names
    assert f"scripts/{NAME}/data_manifests/task04_hippocampus.json" in names
    assert not any(part in name for name in names for part in ("__pycache__", "runs/", "eval/"))


def test_no_config_needs_the_package(exported: tuple[Path, Path]) -> None:
    for path in (exported[0] / "configs").glob("*.json"):
        assert "monai_ext." not in path.read_text(), path.name
    train = json.loads((exported[0] / "configs" / "train.json").read_text())
    assert train["bundle_root"] == "."
    assert train["network_def"]["_target_"] == f"scripts.{NAME}.networks.MixerSwinUNETR"


def test_metadata(toy: Path, exported: tuple[Path, Path]) -> None:
    before, after = (json.loads((path / "configs" / "metadata.json").read_text()) for path in (toy, exported[0]))
    assert "monai-ext" in before["required_packages_version"]
    packages = after.pop("required_packages_version")
    assert "monai-ext" not in packages and {"jsonschema", "nibabel", "pillow", "scipy"} <= set(packages)
    assert not {"torch", "monai", "numpy"} & set(packages), "they have fields of their own"
    assert set(after["checksums"]) == {"models/model.pt", "models/model.ts"}
    for name, entry in after.pop("checksums").items():
        assert entry == {"hash_type": "sha256", "hash_val": sha256(exported[0] / name)}
    before.pop("required_packages_version")
    assert after == before


def test_the_model_card(exported: tuple[Path, Path]) -> None:
    _, head, text = (exported[0] / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "monai",
        "license": "apache-2.0",
        "pipeline_tag": "image-segmentation",
        "tags": ["monai", "medical", "segmentation"],
    }
    assert "pip install monai==1.6.1 torch==" in text and "## This folder" in text


def test_the_zip_holds_the_folder_and_is_always_the_same(exported: tuple[Path, Path], tmp_path: Path) -> None:
    folder, archive = exported
    assert archive.name == f"{NAME}_v0.1.0.zip"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert sorted(p.relative_to(tmp_path / NAME) for p in tmp_path.rglob("*") if p.is_file()) == names
    assert all((tmp_path / NAME / name).read_bytes() == (folder / name).read_bytes() for name in names)


@pytest.mark.usefixtures("untried")
def test_the_same_bundle_gives_the_same_bytes(toy: Path, tmp_path: Path) -> None:
    first, second = (export_bundle(str(toy), tmp_path / name, torchscript=False)[1] for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_an_exported_bundle_passes_the_check(exported: tuple[Path, Path]) -> None:
    failed = {
        finding.check: finding.problems for finding in check_bundle(str(exported[0])) if finding.state == "failed"
    }
    assert not failed


def test_the_traced_model_is_that_of_the_weights(toy: Path, exported: tuple[Path, Path]) -> None:
    image = models.example_input(toy)
    with torch.no_grad():
        want = models.open_network(toy)(image)
        torch.testing.assert_close(torch.jit.load(exported[0] / "models" / "model.ts")(image), want, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("untried")
@pytest.mark.filterwarnings("ignore")
def test_onnx_on_request(toy: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder, _ = export_bundle(str(toy), tmp_path, onnx=True, torchscript=False)
    assert (folder / "models" / "model.onnx").stat().st_size > 0
    assert not (folder / "models" / "model.ts").exists()


def test_what_stands_there_is_kept(toy: Path, exported: tuple[Path, Path]) -> None:
    before = exported[1].read_bytes()
    with pytest.raises(FileExistsError, match="--overwrite"):
        export_bundle(str(toy), exported[0].parent)
    assert exported[1].read_bytes() == before


def test_a_bundle_that_does_not_run_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    bundle = make(tmp_path / "broken", repository)
    change(bundle, "train", lambda content: content.update(extra={"_target_": "nobody.has.this"}))
    with pytest.raises(ValueError, match=r"does not run by itself \(.*nobody.has.this"):
        export_bundle(str(bundle), tmp_path / "out", torchscript=False)
    assert not list((tmp_path / "out").iterdir())


def test_mistakes_end_in_one_sentence(
    toy: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        assert main(program.GROUPS, ["bundle", *words]) != 0
        return capsys.readouterr().err

    assert "no bundle 'nobody'" in said("export", "nobody", "--out", str(tmp_path))
    assert "name another folder" in said("export", str(toy), "--out", str(toy.parent))
    bare = make(tmp_path / "bare", repository)
    (bare / "models" / "model.pt").unlink()
    assert "has no models/model.pt: train the bundle first" in said("export", str(bare), "--out", str(tmp_path / "o"))
    (tmp_path / "file").write_text("")
    assert "file" in said("export", str(toy), "--out", str(tmp_path / "file"), "--torchscript", "False")


@pytest.mark.usefixtures("untried")
def test_a_large_file_is_named(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_ext.bundle.export.LARGE", 20_000)
    folder, _ = export_bundle(str(toy), tmp_path, torchscript=False)
    (entry, *_) = yaml.safe_load((folder / "large_files.yml").read_text())["large_files"]
    assert entry["hash_type"] == "sha256" and entry["hash_val"] == sha256(folder / entry["path"])
