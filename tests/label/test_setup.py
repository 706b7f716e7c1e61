"""The command that sets a server's folder up, with a stand-in for MONAI Label's app."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from monai_ext import cli
from monai_ext.__main__ import GROUPS
from monai_ext.label import app
from monai_ext.label.app import server_command
from monai_ext.label.bundles import find_bundle

HIPPOCAMPUS = "hippocampus_mri_segmentation"
BLOOD = "blood_cell_classification"
MAIN = "self.models = get_bundle_models(app_dir, conf)\ni = BundleInferTask(b, self.conf)\n"


@pytest.fixture
def monailabel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An app as MONAI Label brings it, as far as the command looks."""
    source = tmp_path / "monailabel" / "sample-apps" / "monaibundle"
    (source / "lib").mkdir(parents=True)
    (source / "model").mkdir()
    (source / "main.py").write_text(MAIN)
    (source / "lib" / "__init__.py").touch()
    monkeypatch.setattr(app, "app_of_monailabel", lambda: source)
    return source


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder with an image."""
    folder = tmp_path / "scans of 2026"
    folder.mkdir()
    (folder / "scan.nii.gz").touch()
    return folder


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A bundle of a user."""
    folder = tmp_path / "mine" / "my_segmentation"
    for name in ("configs", "models", "runs", "eval", "configs/__pycache__"):
        (folder / name).mkdir(parents=True)
        (folder / name / "kept.json").write_text("{}")
    outputs = {"pred": {"format": "segmentation"}}
    (folder / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": {"outputs": outputs}}))
    (folder / "configs" / "inference.json").write_text("{}")
    (folder / "models" / "model.pt").write_text("shipped")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, list[str], list[str]]:
    code = cli.main(GROUPS, ["label", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err.splitlines()


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_and_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monailabel: Path, studies: Path, mine: Path
) -> None:
    target = tmp_path / "apps" / "mine"
    code, out, err = run(capsys, target, "--bundles", f"{HIPPOCAMPUS}, {mine}", "--studies", studies)
    assert code == 0 and not err
    assert out[0].startswith(f"{HIPPOCAMPUS}: copied from ") and out[1] == f"my_segmentation: copied from {mine}."
    words = ["--app", target, "--studies", studies, "--host", "127.0.0.1", "--port", "8000"]
    words += ["--conf", "models", f"{HIPPOCAMPUS},my_segmentation", "--conf", "zoo_source", "ngc"]
    words += ["--conf", "sam2", "false"]
    start = [sys.executable, "-m", "monailabel.main", "start_server"]
    assert shlex.split(out[-1]) == start + [str(word) for word in words]
    assert {"main.py", "lib/__init__.py"} <= files(target)
    copy = target / "model" / "my_segmentation"
    assert files(copy) == {
        "configs/kept.json",
        "configs/metadata.json",
        "configs/inference.json",
        "models/kept.json",
        "models/model.pt",
        "models/shipped.pt",
    }
    assert not any(path.is_symlink() for path in target.rglob("*"))
    assert not [path for path in target.rglob(".*")], "nothing half done is left"


def test_weights_trained_in_the_server_stay(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monailabel: Path, studies: Path, mine: Path
) -> None:
    arguments = [tmp_path / "app", "--bundles", mine, "--studies", studies]
    run(capsys, *arguments)
    copy = tmp_path / "app" / "model" / "my_segmentation"
    (copy / "models" / "model.pt").write_text("trained")
    (tmp_path / "app" / "main.py").write_text(f"{MAIN}# changed by its user\n")

    code, out, _ = run(capsys, *arguments)
    assert code == 0 and out[0].startswith("my_segmentation: in the app folder already and kept as it is; --replace")
    assert (copy / "models" / "model.pt").read_text() == "trained"
    assert "changed by its user" in (tmp_path / "app" / "main.py").read_text()

    for number in (1, 2):
        code, out, _ = run(capsys, *arguments, "--replace")
        assert code == 0 and out[0].endswith(f"; the former copy is my_segmentation.replaced{number}.")
        assert (copy / "models" / "model.pt").read_text() == "shipped"
    former = copy.with_name("my_segmentation.replaced1")
    assert (former / "models" / "model.pt").read_text() == "trained"
    assert (mine / "models" / "model.pt").read_text() == "shipped"

    shutil.rmtree(mine)
    code, out, _ = run(capsys, tmp_path / "app", "--bundles", "my_segmentation", "--studies", studies)
    assert code == 0 and out[0] == "my_segmentation: in the app folder already.", "the copy is a bundle itself"


def test_options_reach_the_command(tmp_path: Path, studies: Path, repository: Path) -> None:
    both = [find_bundle(str(repository / "bundles" / name)) for name in (HIPPOCAMPUS, BLOOD)]
    words = server_command("app", both, str(studies), "0.0.0.0", 8001, scoring=[HIPPOCAMPUS])
    text = " ".join(words)
    assert "--host 0.0.0.0 --port 8001" in text and f"--conf epistemic_model {HIPPOCAMPUS}" in text
    assert "--studies http://orthanc/dicom-web " in " ".join(server_command("app", both, "http://orthanc/dicom-web"))


def test_only_what_draws_label_maps_can_be_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monailabel: Path, studies: Path
) -> None:
    code, _, _ = run(capsys, tmp_path / "app", "--bundles", f"{HIPPOCAMPUS},{BLOOD}", "--studies", studies)
    assert code == 0
    trainable = [path.parents[1].name for path in (tmp_path / "app" / "model").glob("*/configs/train.json")]
    assert trainable == [HIPPOCAMPUS]


def test_a_folder_without_images_is_remarked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monailabel: Path, mine: Path
) -> None:
    code, out, _ = run(capsys, tmp_path / "app", "--bundles", mine, "--studies", mine)
    assert code == 0 and "holds no image that MONAI Label lists (.nii.gz, " in out[1]


MISTAKES = {
    "no such bundle": (["app", "--bundles", "hippocampos", "--studies", "SCANS"], f"No bundle hippocampos.*{BLOOD}"),
    "no bundle": (["app", "--bundles", ",", "--studies", "SCANS"], "--bundles names no bundle"),
    "twice": (["app", "--bundles", "MINE,MINE", "--studies", "SCANS"], "'my_segmentation' twice"),
    "no studies": (["app", "--bundles", "MINE", "--studies", "nowhere"], "no folder nowhere for --studies"),
    "another app": (
        ["other", "--bundles", "MINE", "--studies", "SCANS"],
        "is another app than MONAI Label's monaibundle",
    ),
    "not an app": (["MINE", "--bundles", "MINE", "--studies", "SCANS"], "is not empty and no app of MONAI Label"),
    "a file": (["file", "--bundles", "MINE", "--studies", "SCANS"], "is a file: give the app a folder"),
    "scoring": (
        ["app", "--bundles", "MINE", "--studies", "SCANS", "--scoring", "x"],
        "--scoring names 'x', which is not",
    ),
    "port": (
        ["app", "--bundles", "MINE", "--studies", "SCANS", "--start", "--port", "99999"],
        "--port must be a whole",
    ),
    "host": (["app", "--bundles", "MINE", "--studies", "SCANS", "--start", "--host", "no host"], "is no address"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_makes_nothing(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    monailabel: Path,
    studies: Path,
    mine: Path,
    mistake: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("other").mkdir()
    Path("other/main.py").write_text("self.bundles = get_bundle_models(app_dir)\ni = BundleInferTask(b, self.conf)\n")
    before = files(tmp_path)
    words, expected = MISTAKES[mistake]
    places = {"SCANS": str(studies), "MINE": str(mine), "MINE,MINE": f"{mine},{mine}"}
    code, out, err = run(capsys, *[places.get(word, word) for word in words])
    assert code == 1 and not out and len(err) == 1
    assert re.search(expected, err[0]), err[0]
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("models/model.pt", "has no weights: train it"),
        ("configs/inference.json", "has no configs/inference.json"),
        ("configs/metadata.json", "has no configs/metadata.json, which MONAI Label reads"),
    ],
)
def test_an_incomplete_bundle(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monailabel: Path,
    studies: Path,
    mine: Path,
    missing: str,
    words: str,
) -> None:
    (mine / missing).unlink()
    code, _, err = run(capsys, tmp_path / "app", "--bundles", mine, "--studies", studies)
    assert code == 1 and len(err) == 1 and words in err[0]
    assert not (tmp_path / "app").exists()


def test_a_name_that_hides_the_task(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monailabel: Path, studies: Path, mine: Path
) -> None:
    outputs = {"pred": {"format": "classes"}}
    (mine / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": {"outputs": outputs}}))
    arguments = [tmp_path / "app", "--studies", studies, "--bundles"]
    code, _, err = run(capsys, *arguments, mine)
    assert code == 1 and len(err) == 1 and "knows by 'classification' in the folder's name: rename it." in err[0]
    assert run(capsys, *arguments, mine.rename(mine.with_name("Cell_Classification")))[0] == 0


def test_a_port_in_use(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monailabel: Path, studies: Path, mine: Path
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        arguments = [tmp_path / "app", "--bundles", mine, "--studies", studies, "--port", port]
        code, _, err = run(capsys, *arguments, "--start")
        assert code == 1 and err == [
            f"error: port {port} of 127.0.0.1 is in use: give another --port, or end what listens there."
        ]
        assert run(capsys, *arguments)[0] == 0, "it matters to a start alone"


def test_start_runs_the_command(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    monailabel: Path,
    studies: Path,
    mine: Path,
) -> None:
    started: list[list[str]] = []

    def run_server(command: list[str]) -> int:
        started.append(command)
        return 3

    monkeypatch.setattr(app, "run_server", run_server)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code, out, _ = run(capsys, tmp_path / "app", "--bundles", mine, "--studies", studies, "--start", "--port", port)
    assert code == 3 and started == [shlex.split(out[-1])]


@pytest.mark.skipif(find_spec("monailabel") is not None, reason="MONAI Label is installed")
def test_without_monai_label(capsys: pytest.CaptureFixture[str], tmp_path: Path, studies: Path, mine: Path) -> None:
    code, out, err = run(capsys, tmp_path / "app", "--bundles", mine, "--studies", studies)
    assert code == 1 and not out and len(err) == 1
    assert err[0].startswith("error: MONAI Label is not installed in this environment: docs/monai_label.md says how")
    assert not (tmp_path / "app").exists()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0 and out[0].startswith(
        "usage: python -m monai_ext label APP_DIR --bundles BUNDLES --studies STUDIES"
    )
    code, out, err = run(capsys)
    assert code == 2 and not out and len(err) == 1 and "app_dir" in err[0]


def test_the_command_starts_without_torch(repository: Path) -> None:
    modules = "monai_ext.label.commands, monai_ext.label.app, monai_ext.label.bundles"
    code = f"import sys, {modules}; print({{'torch', 'monai', 'monailabel'}} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
