"""Bundles made from small data train, evaluate, infer, and keep the contract of the shipped ones."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.utils import set_determinism

from monai_ext.__main__ import GROUPS
from monai_ext.bundle import choose
from monai_ext.bundle.choose import LADDERS
from monai_ext.bundle.new import Source, new_bundle
from monai_ext.cli import main
from monai_ext.data.volume_files import read_volume
from tests.bundle import own_data
from tests.bundles import test_contract as contract
from tests.bundles.running import complete, workflow

CPU = "$torch.device('cpu')"
TINY = {"segmentation": (8, 16, 1), "denoising": (8, 16, 1), "classification": (16, 32, 2)}


@dataclass(frozen=True)
class Kind:
    """Some data, and what to make of them."""

    task: str
    dims: int
    draw: Callable[[Path], Path]
    source: Callable[[Path], Source]


def _below(folder: Path) -> Source:
    return Source(str(folder))


KINDS = {
    "volumes": Kind("segmentation", 3, own_data.volumes, _below),
    "pictures": Kind("segmentation", 2, own_data.pictures, _below),
    "classes": Kind("classification", 2, own_data.classes, _below),
    "pairs": Kind("denoising", 2, own_data.noisy_pairs, _below),
    "clean volumes": Kind("denoising", 3, own_data.volumes, lambda folder: Source(str(folder / "imagesTr"), dims=3)),
    "classes of volumes": Kind("classification", 3, lambda f: own_data.classes(f, side=16, dims=3), _below),
}


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(choose, "training_memory", lambda *_: (1e9, 1e9))  # takes a second; tested with its module
    for task, dims in LADDERS:
        monkeypatch.setitem(LADDERS, (task, dims), [TINY[task]])  # type: ignore[arg-type]
    path = list(sys.path)
    yield
    sys.path[:] = path
    set_determinism(None)


def make(task: str, source: Source, out: Path, **options: Any) -> Any:
    settings = {"memory": "8GB", "device": "cpu", "progress": False} | options
    return new_bundle("mine", task, source, out=str(out), **settings)


def train(bundle: Path, **options: Any) -> None:
    short = {"max_epochs": 1, "iterations": 2, "num_workers": 0, "precision": "float32", "device": CPU} | options
    complete(workflow(bundle, ["train.json"], "train", output_dir=str(bundle / "runs"), **short))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "volumes" else pytest.mark.slow) for name in KINDS]
)
def test_it_trains_and_keeps_the_contract(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    data = kind.draw(tmp_path / "data")
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    made = make(kind.task, kind.source(data), tmp_path / "out")
    bundle = made.root
    assert bundle is not None, made.report
    assert bundle.name == f"mine_{kind.task}" and "wrote" in made.report
    assert ("at_levels" in (bundle / "configs" / "train.json").read_text()) == (name == "clean volumes")
    train(bundle)
    train(bundle, resume=True, max_epochs=2)
    keeps_the_contract(bundle, data, tmp_path)
    folder = tmp_path / "eval"
    options = {"device": CPU, "num_workers": 0, "output_dir": str(folder)}
    complete(workflow(bundle, ["train.json", "evaluate.json"], "eval", **options))
    assert (folder / "metrics.csv").is_file()
    complete(workflow(bundle, ["inference.json"], "infer", device=CPU, output_dir=str(tmp_path / "out")))
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def keeps_the_contract(bundle: Path, data: Path, tmp_path: Path) -> None:
    """The tests that shipped bundles pass, but for the export to ONNX, which takes long."""
    choices: dict[str, Any] = {"file": contract.FILES, "kind": tuple(contract.WORKFLOWS), "check": contract.ASKED}
    root = Path(json.loads((bundle / "data" / "datalist.json").read_text())["folder"])
    assert root.is_relative_to(data)
    given = {"phantom_of": lambda _: root, "tmp_path": tmp_path}
    done = 0
    for name, test in inspect.getmembers(contract, inspect.isfunction):
        if not name.startswith("test_") or name == "test_export_to_onnx":
            continue
        parameters = inspect.signature(test).parameters
        varied = [key for key in parameters if key in choices]
        for value in choices[varied[0]] if varied else [None]:
            chosen = {key: given[key] for key in parameters if key in given} | ({varied[0]: value} if varied else {})
            test(bundle=bundle, **chosen)
            done += 1
    assert done > 20


def test_the_same_data_seed_and_options_make_the_same_bundle(tmp_path: Path) -> None:
    data = own_data.volumes(tmp_path / "data")
    root = make("segmentation", Source(str(data)), tmp_path / "out", seed=3).root
    files = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    shutil.rmtree(root)
    make("segmentation", Source(str(data)), tmp_path / "out", seed=3)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == files
    make("segmentation", Source(str(data)), tmp_path / "out", seed=4, overwrite=True)
    assert (root / "data" / "datalist.json").read_bytes() != files[root / "data" / "datalist.json"]


def test_a_bundle_that_is_there_is_kept(tmp_path: Path) -> None:
    data = own_data.volumes(tmp_path / "data", 3)
    root = make("segmentation", Source(str(data)), tmp_path).root
    (root / "models" / "model.pt").write_bytes(b"weights")
    with pytest.raises(ValueError, match="is there already"):
        make("segmentation", Source(str(data)), tmp_path)
    make("segmentation", Source(str(data)), tmp_path, overwrite=True)
    assert (root / "models" / "model.pt").read_bytes() == b"weights"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = own_data.classes(tmp_path / "data", 3)
    rows = "".join(f"{name}/{number}.png,{name}\n" for name in ("bright", "dark") for number in range(3))
    (tmp_path / "t.csv").write_text("image,label\n" + rows)
    words = ["bundle", "new", "2024", "--task", "classification", "--images", str(data), "--out", str(tmp_path / "out")]
    words += ["--labels-csv", str(tmp_path / "t.csv"), "--memory", "8GB", "--device", "cpu"]
    assert main(GROUPS, words) == 0
    assert "wrote" in capsys.readouterr().out
    assert (tmp_path / "out" / "2024_classification" / "configs" / "train.json").is_file()
    assert main(GROUPS, words) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_one_case_trains(tmp_path: Path) -> None:
    made = make("segmentation", Source(str(own_data.volumes(tmp_path / "data", 1))), tmp_path)
    assert "one case trains and validates" in made.report
    train(made.root)
    assert torch.load(made.root / "models" / "model.pt", weights_only=True)


def test_values_of_masks_become_classes_and_come_back(tmp_path: Path) -> None:
    data = own_data.pictures(tmp_path / "data", 4, high=200)
    made = make("segmentation", Source(str(data)), tmp_path)
    config = json.loads((made.root / "configs" / "train.json").read_text())
    steps = config["train"]["deterministic_transforms"]
    assert [step["values"] for step in steps if step["_target_"].endswith("ClassesOfd")] == [[0, 200]]
    assert config["class_names"] == ["foreground"]
    train(made.root)
    folder = tmp_path / "found"
    image = str(data / "eye 1é.png")
    complete(workflow(made.root, ["inference.json"], "infer", device=CPU, dataset_dir=image, output_dir=str(folder)))
    assert set(np.unique(read_volume(folder / "eye 1é_seg.png").voxels)) <= {0, 200}


def test_values_of_volumes_come_back(tmp_path: Path) -> None:
    """Labels of 0, 1 and 3, as they are where one class of several was taken out."""
    data = own_data.volumes(tmp_path / "data")
    for path in (data / "labelsTr").iterdir():
        mask = read_volume(path).voxels.astype(np.uint8)
        mask[:, :, : mask.shape[2] // 2] *= 3
        own_data.save_volume(path, mask)
    made = make("segmentation", Source(str(data)), tmp_path)
    train(made.root)
    options: dict[str, Any] = {"dataset_dir": str(data / "imagesTr"), "output_dir": str(tmp_path / "found")}
    flow = workflow(made.root, ["inference.json"], "infer", device=CPU, **options)
    flow.initialize()
    with torch.no_grad():  # no background, hence classes for certain
        flow.parser.get_parsed_content("network_def").out.conv.conv.bias[0] -= 100
    flow.run()
    flow.finalize()
    values = {int(v) for path in (tmp_path / "found").glob("*.nii.gz") for v in np.unique(read_volume(path).voxels)}
    assert values and values <= {1, 3}


def test_coarse_slices_make_a_flat_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LADDERS, ("segmentation", 3), [(8, 16, 1)])  # type: ignore[arg-type]
    data = own_data.volumes(tmp_path / "data", 3, (40, 40, 12), np.diag([0.5, 0.5, 5, 1]))
    made = make("segmentation", Source(str(data)), tmp_path)
    config = json.loads((made.root / "configs" / "train.json").read_text())
    assert config["network_def"]["patch_size"] == [2, 2, 1]
    assert config["patch_size"][2] < config["patch_size"][0]
    (spacing,) = [s for s in config["train"]["deterministic_transforms"] if s["_target_"].endswith("VolumeSpacingd")]
    assert spacing["pixdim"] == [0.5, 0.5, 5.0]
    train(made.root)


def test_one_channel_a_class_and_several_files_an_image(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number in range(3):
        image, mask = own_data.blob((16, 16, 16), number)
        for channel in range(2):
            name = f"case {number}_{channel:04d}.nii.gz"
            own_data.save_volume(data / "imagesTr" / name, (image * (channel + 1)).astype(np.float32))
        half = mask * (np.arange(16)[:, None, None] < 8)
        one_hot = np.stack([half, mask - half], -1).astype(np.uint8)
        own_data.save_volume(data / "labelsTr" / f"case {number}.nii.gz", one_hot)
    made = make(
        "segmentation",
        Source(str(data)),
        tmp_path,
    )
    config = json.loads((made.root / "configs" / "train.json").read_text())
    assert config["network_def"]["in_channels"] == 2 and config["network_def"]["out_channels"] == 3
    train(made.root)
    complete(workflow(made.root, ["inference.json"], "infer", device=CPU, output_dir=str(tmp_path / "found")))
    assert len(list((tmp_path / "found").glob("*_seg.nii.gz"))) == 1
