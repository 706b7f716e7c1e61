"""Every command of a bundle's docs that runs configs, as it stands there, on a phantom and for two iterations."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from monai_ext.data import datalist
from tests.bundles.running import BUNDLES, Outcome, arguments, classifies, data_of, fresh_python, monai_bundle, table

# what a test chooses instead, or what makes no other run of it
PATHS = {"config_file", "dataset_dir", "output_dir", "model_path", "initial_weights", "teacher_weights", "resume"}
NUMBERS = {"learning_rate", "seed", "warmup_epochs", "batch_size", "ema#momentum"}
SHORT = {"max_epochs": 1, "val_interval": 1, "train#trainer#epoch_length": 2}


def documented(bundle: Path) -> Iterator[list[str]]:
    """The words of the commands that run a workflow, of each kind one: kind, launcher, configs and options."""
    text = (bundle / "docs" / "README.md").read_text()
    found, variables = set(), {}
    for block in re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL):
        for name, quoted, plain in re.findall(r'^(\w+)=(?:"([^"]*)"|(\S+))$', block, flags=re.MULTILINE):
            variables[name] = quoted or plain
        for name, value in variables.items():
            block = re.sub(rf"\${name}\b", value, block)
        for line in block.splitlines():
            if "monai.bundle run " not in line:
                continue
            words = shlex.split(re.sub(r"\s#\s.*", "", line))  # the `#` of an id is no comment
            kind = words[words.index("run") + 1]
            options = words[words.index("run") + 2 :]
            pairs = dict(zip((name.removeprefix("--") for name in options[::2]), options[1::2]))
            others = [
                word
                for name, value in pairs.items()
                if name not in {*PATHS, *NUMBERS, *SHORT}
                for word in (f"--{name}", value)
            ]
            command = (
                kind,
                words[0],
                pairs["config_file"],
                "own" if kind == "evaluating" and "model_path" in pairs else "",
                *others,
            )
            if command not in found:
                found.add(command)
                yield list(command)


COMMANDS = [(bundle, words) for bundle in BUNDLES for words in documented(bundle)]
TITLES = [
    "-".join([bundle.name, words[0], *re.findall(r"(\w+)\.json", words[2]), *words[4:]]) for bundle, words in COMMANDS
]


def parsed(configs: str) -> ConfigParser:
    return ConfigParser(ConfigParser.load_config_files(re.findall(r"[\w./-]+\.json", configs)))


def teachers_of(configs: str, folder: Path) -> list[str]:
    """Files of weights, as they are initialised, for the networks that soften labels."""
    parser, paths = parsed(configs), []
    folder.mkdir(exist_ok=True)
    for number in range(len(parser["soft_labels"]["teachers"])):
        teacher = parser.get_parsed_content(f"soft_labels#teachers#{number}")
        paths.append(str(folder / f"teacher_{number}.pt"))
        torch.save(teacher.state_dict(), paths[-1])
    return paths


def run(bundle: Path, words: list[str], phantom: Path, folder: Path) -> Outcome:
    kind, launcher, configs, own, *options = words
    chosen: dict[str, object] = {"dataset_dir": str(phantom), "output_dir": str(folder)}
    if kind == "training":
        chosen |= {**SHORT, "model_path": str(folder / "model.pt"), "num_workers": 0}
        # the phantom's two cases to train on and one to validate on are few for two processes
        if launcher == "torchrun":
            chosen["batch_size"] = 1
            data = json.loads((bundle / "configs" / "train.json").read_text())["validate"]["dataset"]["data"]
            chosen["validate#dataset#data"] = data.replace("'validation'", "'all'")
        if "soft_labels" in configs:
            chosen["teacher_weights"] = teachers_of(configs, folder)
    elif own:
        parser = parsed(configs)
        for name, value in zip(options[::2], options[1::2]):
            parser[name.removeprefix("--")] = json.loads(value) if value[0] in "[{" else value
        folder.mkdir(exist_ok=True)
        torch.save(parser.get_parsed_content("network_def").state_dict(), folder / "model.pt")
        chosen["model_path"] = str(folder / "model.pt")
    if "mirror_axes" in (bundle / "configs" / "evaluate.json").read_text() and kind != "training":
        chosen["mirror_axes"] = []
    command = ["run", kind, "--config_file", configs, *options, *arguments(**chosen)]
    if launcher == "torchrun":
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle"]
        return fresh_python(*start, *command, seconds=600)
    return monai_bundle(*command, seconds=600)


def test_docs_name_every_config() -> None:
    for bundle in BUNDLES:
        named = {name for b, words in COMMANDS if b == bundle for name in re.findall(r"(\w+)\.json", words[2])}
        there = {path.stem for path in (bundle / "configs").glob("*.json")} - {"metadata"}
        assert there == named, f"{bundle.name}: configs without a command, or commands without a config"


@pytest.mark.slow
@pytest.mark.parametrize(("bundle", "words"), COMMANDS, ids=TITLES)
def test_runs(bundle: Path, words: list[str], phantom_of: Callable[[Path], Path], tmp_path: Path) -> None:
    phantom = phantom_of(bundle)
    result = run(bundle, words, phantom, tmp_path / "out")
    assert result.code == 0, result.text
    checks = {"training": check_training, "evaluating": check_evaluation, "inference": check_inference}
    checks[words[0]](bundle, phantom, tmp_path / "out")


def check_training(bundle: Path, phantom: Path, folder: Path) -> None:
    state = torch.load(folder / "training_state.pt", weights_only=True)
    assert (state["epoch"], state["iteration"]) == (1, 2)
    weights = torch.load(folder / "model.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in weights.values() if value.is_floating_point())
    assert len((folder / "training_log.csv").read_text().splitlines()) == 2


def check_evaluation(bundle: Path, phantom: Path, folder: Path) -> None:
    if classifies(bundle):
        check_classes(bundle, folder, datalist(data_of(bundle), phantom, "test"))
        found = {path.stem for path in (folder / "pictures").glob("*.png")}
        assert found == {"samples", "confusion_matrix", "roc", "calibration"}
        header, *rows = (folder / "metrics.csv").read_text().splitlines()
        assert header == "metric,value,ci95_low,ci95_high" and any(row.startswith("roc_auc,") for row in rows)
        return
    rows = table(folder / "metrics.csv")
    for entry in datalist(data_of(bundle), phantom, "test"):
        assert any(row.startswith(entry["case"]) for row in rows), entry["case"]
        assert any(path.stem.startswith(entry["case"]) for path in folder.rglob("*.png")), entry["case"]
    assert {"mean", "ci95_low", "ci95_high"} <= set(rows)


def check_classes(bundle: Path, folder: Path, entries: list[dict]) -> None:
    """A class and probabilities that add up to 1 for every entry."""
    rows = table(folder / "predictions.csv")
    assert list(rows) == sorted(entry["case"] for entry in entries)
    names = json.loads((bundle / "configs" / "inference.json").read_text())["class_names"]
    for row in rows.values():
        shares = [float(row[f"probability_{name}"]) for name in names]
        assert sum(shares) == pytest.approx(1, abs=1e-3) and row["prediction"] == names[shares.index(max(shares))]


def check_inference(bundle: Path, phantom: Path, folder: Path) -> None:
    """A result for every image that is no label, of its size; for volumes also of its geometry."""
    if classifies(bundle):
        check_classes(bundle, folder, datalist(data_of(bundle), phantom, "all"))
        return
    for entry in datalist(data_of(bundle), phantom, "all"):
        image = Path(entry["image"])
        stem = image.name.split(".")[0]
        found = [path for path in folder.rglob(f"{stem}*") if path.parent.name not in ("overlays", "pictures")]
        results = [path for path in found if path.suffix in (".gz", ".nii", ".png", ".tif")]
        assert results, f"nothing for {image}"
        for path in results:
            if image.suffix in (".gz", ".nii"):
                given, made = nib.load(image), nib.load(path)
                assert made.shape == given.shape
                np.testing.assert_allclose(made.affine, given.affine, atol=1e-4)
            else:
                with Image.open(image) as given, Image.open(path) as made:
                    assert made.size == given.size
