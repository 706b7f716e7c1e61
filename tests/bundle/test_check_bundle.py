"""What the check of a bundle finds, on a small whole bundle of MONAI's own classes that the tests damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import BasicUNet

from monai_ext.bundle.check import check_bundle
from monai_ext.bundle.checks import CHECKS
from monai_ext.bundle.find import find_bundle
from monai_ext.bundle.large_files import LIMIT, list_large_files, listed_files

OFFLINE = {name: check for name, check in CHECKS.items() if name != "metadata against its schema"}
NETWORK = {"_target_": "BasicUNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2, "features": [4] * 6}
TENSOR = {"type": "image", "format": "magnitude", "num_channels": 1, "spatial_shape": [32, 32], "dtype": "float32"}
TENSOR |= {"value_range": [0, 1], "channel_def": {"0": "image"}}
METADATA: dict[str, Any] = {
    "schema": "https://project-monai.github.io/schema/meta_schema_20240725.json",
    "version": "0.2.0",
    "changelog": {"0.2.0": "better", "0.1.0": "first"},
    "monai_version": "1.6.1",
    "pytorch_version": "2.13.0",
    "numpy_version": "2.4.6",
    "required_packages_version": {"nibabel": "5.4.2"},
    "task": "Segmentation",
    "description": "A small network",
    "authors": "A",
    "copyright": "A",
    "network_data_format": {
        "inputs": {"image": TENSOR},
        "outputs": {"pred": {**TENSOR, "num_channels": 2, "channel_def": {"0": "a", "1": "b"}}},
    },
}
INFERENCE: dict[str, Any] = {
    "imports": ["$import os"],
    "bundle_root": ".",
    "device": "cpu",
    "dataset_dir": "/workspace/data",
    "network_def": NETWORK,
    "network": "$@network_def.to(@device)",
    "dataset": {"_target_": "Dataset", "data": []},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset"},
    "inferer": {"_target_": "monai.inferers.SimpleInferer"},
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
    },
    "run": ["$@evaluator.run()"],
}
README = "\n\n".join(
    f"# {title}\n\ntext" for title in ("Overview", "Data", "Training", "Input", "Output", "Performance", "Licence")
)
LOGGING = "[handler_a]\nclass=StreamHandler\nargs=(sys.stdout,)\n"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle in the zoo's form, without any code of this package."""
    folder = tmp_path / "small"
    for name in ("configs", "docs", "models"):
        (folder / name).mkdir(parents=True)
    write(folder, "metadata", METADATA)
    write(folder, "inference", INFERENCE)
    (folder / "configs" / "logging.conf").write_text(LOGGING)
    (folder / "LICENSE").write_text("word " * 100)
    (folder / "docs" / "README.md").write_text(f"{README}\n\n# Commands\n\npython -m monai.bundle run\n")
    torch.manual_seed(0)
    net = BasicUNet(2, 1, 2, features=[4] * 6)
    torch.save(net.state_dict(), folder / "models" / "model.pt")
    return folder


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / "configs" / f"{name}.json").write_text(json.dumps(content))


def changed(name: str, **options: Any) -> Callable[[Path], None]:
    content = {"metadata": METADATA, "inference": INFERENCE}[name]

    def change(folder: Path) -> None:
        new = {key: value for key, value in {**content, **options}.items() if value is not None}
        write(folder, name, new)

    return change


def test_a_bundle_of_the_zoo_passes(bundle: Path) -> None:
    report = check_bundle(bundle, OFFLINE)
    assert report.ok, report.table()
    assert [finding.check for finding in report.findings if finding.not_checked][:1] == ["model.ts"]
    assert "0 fail" in report.table()


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no licence": (lambda folder: (folder / "LICENSE").unlink(), "required files", "LICENSE is missing"),
    "short licence": (lambda folder: (folder / "LICENSE").write_text("free"), "licence", "no whole licence"),
    "no task": (changed("metadata", task=None), "metadata", "no task"),
    "old name": (changed("metadata", optional_packages_version={}), "metadata", "optional_packages_version"),
    "references": (changed("metadata", references="A."), "metadata", "references is no list"),
    "not in the changelog": (changed("metadata", version="0.3.0"), "version and changelog", "0.3.0 is not in"),
    "not the newest": (changed("metadata", version="0.1.0"), "version and changelog", "newest 0.2.0"),
    "packages": (changed("metadata", required_packages_version={"a": "new"}), "required packages", "'new'"),
    "checksum": (changed("metadata", models_sha256={"models/model.pt": "0"}), "checksums", "another checksum"),
    "tensor": (
        changed("metadata", network_data_format={"inputs": {"image": {"type": "image"}}, "outputs": {}}),
        "tensors in the metadata",
        "image has no format",
    ),
    "broken json": (
        lambda folder: (folder / "configs" / "inference.json").write_text("{"),
        "targets",
        "inference.json cannot be read",
    ),
    "no run": (changed("inference", run=None), "ids", "no id run"),
    "no such reference": (changed("inference", network="@nothing"), "ids", "@nothing is defined nowhere"),
    "target": (
        changed("inference", inferer={"_target_": "monai.inferers.NoInferer"}),
        "targets",
        "monai.inferers.NoInferer cannot be imported",
    ),
    "bare target": (changed("inference", inferer={"_target_": "Nothing"}), "targets", "Nothing is a bare name"),
    "path": (changed("inference", bundle_root="/home/me/small"), "paths", "bundle_root is /home/me/small"),
    "path beside": (changed("inference", output_dir="../out"), "paths", "output_dir is ../out"),
    "no inferer": (changed("inference", inferer=None, evaluator={"_target_": "Dataset"}), "properties", "no inferer"),
    "other id": (
        changed("inference", evaluator={**INFERENCE["evaluator"], "postprocessing": "@post"}, post=1),
        "properties",
        "evaluator#postprocessing is @post",
    ),
    "other network": (
        lambda folder: write(folder, "train", {**INFERENCE, "network_def": {**NETWORK, "act": "relu"}}),
        "same network in train and inference",
        "in act",
    ),
    "logging": (
        lambda folder: (folder / "configs" / "logging.conf").write_text("[handler_a]\nclass=os.popen\nargs=()\n"),
        "logging.conf",
        "os.popen",
    ),
    "logging's arguments": (
        lambda folder: (folder / "configs" / "logging.conf").write_text("[handler_a]\nargs=(open('x'),)\n"),
        "logging.conf",
        "open('x')",
    ),
    "documents": (lambda folder: (folder / "docs" / "README.md").write_text("# Overview"), "documentation", "command"),
    "weights": (
        lambda folder: torch.save({"state": {}}, folder / "models" / "model.pt"),
        "weights",
        "not a plain state dict",
    ),
    "weights of another network": (
        lambda folder: torch.save({"a": torch.zeros(1)}, folder / "models" / "model.pt"),
        "weights",
        "does not fit network_def",
    ),
    "NaN": (
        lambda folder: torch.save({"a": torch.tensor([float("nan")])}, folder / "models" / "model.pt"),
        "weights",
        "NaN",
    ),
    "channels": (
        changed("inference", network_def={**NETWORK, "out_channels": 3}),
        "input and output",
        "output channel number `3`",
    ),
    "TorchScript": (
        lambda folder: torch.jit.script(torch.nn.ReLU()).save(str(folder / "models" / "model.ts")),
        "model.ts",
        "another output",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_found(bundle: Path, damage: str) -> None:
    damaging, check, words = DAMAGES[damage]
    damaging(bundle)
    report = check_bundle(bundle, {check: CHECKS[check]})
    (finding,) = report.findings
    assert finding.outcome == "fails" and not report.ok, report.table()
    assert words in "; ".join(problem.what for problem in finding.problems)
    assert all(problem.mend for problem in finding.problems)
    assert words in report.table()
    assert json.loads(report.dumps())["checks"][0]["outcome"] == "fails"


def test_large_files(bundle: Path) -> None:
    check = {"large files": CHECKS["large files"]}
    for folder in ("models", "runs"):  # what a training leaves behind is no part of the bundle
        (bundle / folder).mkdir(exist_ok=True)
        with (bundle / folder / "big.bin").open("wb") as file:
            file.truncate(LIMIT + 1)
    assert "not in large_files.yml" in check_bundle(bundle, check).table()
    list_large_files(bundle, None)
    assert "has no url" in check_bundle(bundle, check).table()
    list_large_files(bundle, "https://example.org/small/")
    assert listed_files(bundle)["models/big.bin"]["url"] == "https://example.org/small/models/big.bin"
    assert listed_files(bundle)["models/big.bin"]["hash_type"] == "sha256"
    assert list(listed_files(bundle)) == ["models/big.bin"]
    assert check_bundle(bundle, check).ok
    list_large_files(bundle, None)  # keeps the address
    assert check_bundle(bundle, check).ok


def test_no_network_is_said(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ConnectionError("no way out")

    monkeypatch.setattr("monai.bundle.scripts.download_url", fail)
    name = "metadata against its schema"
    (finding,) = check_bundle(bundle, {name: CHECKS[name]}).findings
    assert finding.outcome == "not checked" and finding.not_checked.startswith("no network")


def test_an_unknown_bundle() -> None:
    with pytest.raises(FileNotFoundError, match="hippocampus_mri_segmentation"):
        find_bundle("nothing_of_the_kind")
