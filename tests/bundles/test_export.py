"""Exported bundles where the package cannot be imported: the outputs of the original, training, evaluation."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from monai_ext.bundle.export import export_bundle
from monai_ext.data import datalist
from tests.bundles.running import BUNDLES, TINY, arguments, classifies, data_of, monai_bundle

# as `python -m monai.bundle`, without the package: this environment has it, editable
ALONE = """
import importlib.abc, runpy, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "monai_ext":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, "")
sys.argv[0] = "monai.bundle"
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""
SMALL = {name: value for name, value in TINY.items() if name != "device"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    made: dict[Path, Path] = {}

    def export(bundle: Path) -> Path:
        if bundle not in made:
            made[bundle], _ = export_bundle(str(bundle), tmp_path_factory.mktemp("exported"), torchscript=False)
        return made[bundle]

    return export


def alone(folder: Path, *words: str) -> str:
    """Run MONAI's command in a bundle's folder; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def results(folder: Path) -> dict[str, bytes]:
    kinds = (".gz", ".nii", ".png", ".tif", ".csv")
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.suffix in kinds}
    return {name: data for name, data in found.items() if not name.startswith(("overlays/", "pictures/"))}


@pytest.mark.slow
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_inference_is_that_of_the_original(
    bundle: Path, exported: Callable[[Path], Path], phantom_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    phantom = phantom_of(bundle)
    entry = datalist(data_of(bundle), phantom, "all")[0]
    image = phantom if classifies(bundle) else entry["image"]
    chosen = {"dataset_dir": str(image), "output_dir": str(tmp_path / "original")}
    if '"mirror_axes"' in (bundle / "configs" / "inference.json").read_text():
        chosen["mirror_axes"] = []
    config = str(bundle / "configs" / "inference.json")
    original = monai_bundle("run", "inference", "--config_file", config, *arguments(**chosen), seconds=600)
    assert original.code == 0, original.text
    chosen["output_dir"] = str(tmp_path / "exported")
    alone(exported(bundle), "run", "inference", "--config_file", "configs/inference.json", *arguments(**chosen))
    found = results(tmp_path / "exported")
    assert found and found == results(tmp_path / "original")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hippocampus_mri_segmentation", "blood_cell_classification"])
def test_training_and_evaluation(
    name: str, exported: Callable[[Path], Path], phantom_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    (bundle,) = (path for path in BUNDLES if path.name == name)
    folder, weights = exported(bundle), tmp_path / "model.pt"
    small = SMALL if name.startswith("hippocampus") else {"num_workers": 0}
    paths = {"dataset_dir": str(phantom_of(bundle)), "model_path": str(weights)}
    short = {"max_epochs": 1, "val_interval": 1, "train#trainer#epoch_length": 2, "output_dir": str(tmp_path / "runs")}
    alone(folder, "run", "training", "--config_file", "configs/train.json", *arguments(**{**small, **paths, **short}))
    state = torch.load(tmp_path / "runs" / "training_state.pt", weights_only=True)
    assert (state["epoch"], state["iteration"]) == (1, 2) and weights.is_file()
    network = {key: value for key, value in small.items() if key.startswith(("network", "patch"))}
    chosen = {**network, **paths, "output_dir": str(tmp_path / "eval")}
    configs = "['configs/train.json','configs/evaluate.json']"
    alone(folder, "run", "evaluating", "--config_file", configs, *arguments(**chosen))
    assert (tmp_path / "eval" / "metrics.csv").is_file()


@pytest.mark.slow
def test_two_exported_bundles_in_one_process(exported: Callable[[Path], Path]) -> None:
    """A server has several: each finds its own code."""
    first, second = (exported(bundle) for bundle in (BUNDLES[0], BUNDLES[-1]))
    script = (
        "import sys\n"
        "from monai.bundle import ConfigParser\n"
        "for folder in sys.argv[1:]:\n"
        "    sys.path.insert(0, folder)\n"
        "    parser = ConfigParser(ConfigParser.load_config_file(folder + '/configs/inference.json'))\n"
        "    print(type(parser.get_parsed_content('network_def')).__module__)\n"
    )
    words = [sys.executable, "-W", "ignore", "-c", script, str(first), str(second)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}, cwd=first.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    modules = done.stdout.split()[-2:]
    assert [module.split(".")[:2] for module in modules] == [["scripts", first.name], ["scripts", second.name]]
