"""The checks of a bundle, each on a bundle that breaks it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext import __main__ as program
from monai_ext.bundle.check import CHECKS, check_bundle
from monai_ext.cli import main
from tests.bundle.toy_bundle import change, make


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    return make(tmp_path_factory.mktemp("whole"), repository)


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def problems(bundle: Path, check: str) -> str:
    (finding,) = check_bundle(str(bundle), check)
    assert (finding.state == "failed") == bool(finding.problems)
    assert all(problem.mend.endswith(".") for problem in finding.problems)
    return " ".join(problem.text for problem in finding.problems)


def test_a_whole_bundle_passes(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {finding.check: finding.state for finding in check_bundle(str(whole))}
    assert "failed" not in states.values(), states
    passed = {name for name, state in states.items() if state == "passed"}
    assert len(CHECKS) - len(passed) <= 3, "the schema without a network, scripting, and checksums of exports"


def drop(*names: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: [content.pop(name) for name in names]


def put(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.update(values)


@pytest.mark.parametrize(
    ("check", "config", "how", "said"),
    [
        ("metadata", "metadata", drop("authors"), "authors is missing"),
        ("metadata", "metadata", put(task=""), "task is empty"),
        ("metadata", "metadata", put(version="0.2.0"), "changelog says nothing about version 0.2.0"),
        ("metadata", "metadata", put(version="one"), "not of the form 1.2.3"),
        ("metadata", "metadata", put(changelog={"0.1.0": "a", "0.10.0": "b"}), "the newest in changelog 0.10.0"),
        ("metadata", "metadata", put(schema="x"), "schema is 'x'"),
        ("metadata", "metadata", put(references="a paper"), "references is no list"),
        ("metadata", "metadata", put(optional_packages_version={}), "the old name"),
        ("metadata", "metadata", put(network_data_format={"inputs": {}}), "has no 'image'"),
        ("ids", "train", drop("run"), "train.json has no 'run'"),
        ("ids", "train", drop("training"), "train.json has no 'training'"),
        ("ids", "inference", drop("inferer"), "inference.json has no 'inferer'"),
        ("names of classes", "train", put(x={"_target_": "monai.nothing.Here"}), "there is no monai.nothing.Here"),
        ("names of classes", "train", put(x={"_target_": "NoSuchTransform"}), "MONAI has no NoSuchTransform"),
        ("paths", "train", put(place="/home/me/model.pt"), "place is /home/me/model.pt, which is outside"),
        ("paths", "inference", put(place="../model.pt"), "outside of the bundle"),
        ("hashes", "train", put(weights={"url": "x", "hash_val": "1"}), "weights has hash_val without hash_type"),
        ("configs", "train", put(part="%other.json::x"), "part is %other.json::x, another file"),
        ("training and inference", "inference", put(patch_size=[1, 1, 1]), "patch_size of train.json and of inference"),
        ("weights", "inference", lambda c: c["network_def"].update(feature_size=16), "does not load into network_def"),
        ("input and output", "inference", lambda c: c["network_def"].update(in_channels=2), "do not fit"),
        (
            "checksums",
            "metadata",
            put(checksums={"LICENSE": {"hash_type": "sha256", "hash_val": "0"}}),
            "not the",
        ),
        ("checksums", "metadata", put(checksums={"models/model.ts": {}}), "which is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_broken_is_said(bundle: Path, check: str, config: str, how: Any, said: str) -> None:
    before = {finding.check for finding in check_bundle(str(bundle), check) if finding.state == "failed"}
    change(bundle, config, how)
    assert said in problems(bundle, check) and not before


@pytest.mark.parametrize(
    ("name", "text", "check", "said"),
    [
        ("LICENSE", None, "files", "LICENSE is missing"),
        ("docs/README.md", "", "files", "docs/README.md is empty"),
        ("models/model.pt", None, "files", "models/model.pt is missing"),
        ("docs/README.md", "# Data\n![x](nothing.png)", "docs", "no section on 'performance'"),
        ("docs/README.md", "# Data\n![x](nothing.png)", "docs", "shows nothing.png, which is not there"),
        ("configs/train.json", "{", "configs", "train.json cannot be read"),
        ("models/model.pt", "no weights", "weights", "cannot be loaded with weights_only=True"),
        ("configs/logging.conf", "[handler_x]\nclass=evil.Handler\nargs=()", "logging", "has the class 'evil.Handler'"),
        ("configs/logging.conf", "[handler_x]\nclass=FileHandler\nargs=(open('x'),)", "logging", "args of handler_x"),
        ("large_files.yml", "large_files:\n- path: a\n  hash_val: '1'", "large files", "url of a is missing"),
        ("large_files.yml", "large_files:\n- path: a\n  url: b\n  hash_val: '1'", "large files", "hash_type of a"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_broken_files_are_said(bundle: Path, name: str, text: str | None, check: str, said: str) -> None:
    (bundle / name).unlink() if text is None else (bundle / name).write_text(text)
    assert said in problems(bundle, check)


def test_a_large_file_belongs_elsewhere(bundle: Path) -> None:
    with (bundle / "models" / "big.bin").open("wb") as file:
        file.truncate(26 * 2**20)
    assert "models/big.bin has 26 MB" in problems(bundle, "large files")


def test_weights_that_are_no_numbers(bundle: Path) -> None:
    path = bundle / "models" / "model.pt"
    state = torch.load(path, weights_only=True)
    next(iter(state.values())).fill_(float("nan"))
    torch.save(state, path)
    assert "not finite" in problems(bundle, "weights")


def test_a_traced_model_of_other_weights(bundle: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.zeros(1)), bundle / "models" / "model.ts")
    assert "models/model.ts gives other outputs" in problems(bundle, "TorchScript by tracing")


def test_a_network_that_scripts_passes_that_check(bundle: Path) -> None:
    network = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": 1}
    for name in ("train", "inference"):
        change(bundle, name, put(network_def=network))
    torch.save(torch.nn.Conv3d(1, 3, 1).state_dict(), bundle / "models" / "model.pt")
    (finding,) = check_bundle(str(bundle), "TorchScript by scripting")
    assert finding.state == "passed"


def test_the_command(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "LICENSE").unlink()
    assert main(program.GROUPS, ["bundle", "check", str(bundle), "--json", str(tmp_path / "found.json")]) == 1
    out = capsys.readouterr().out
    assert "FAILED  files" in out and "LICENSE is missing." in out and "-> add the licence's text" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert [entry["check"] for entry in found] == list(CHECKS) and found[0]["state"] == "failed"
    with pytest.raises(ValueError, match="there is no check 'x'"):
        check_bundle(str(bundle), "x")
