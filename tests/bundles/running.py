"""Running bundles: in the process as the model zoo's tests do, and as the commands do."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path for path in (ROOT / "bundles").iterdir() if path.is_dir() and path.name[0] not in "._")

# What makes the hippocampus bundle small: ids of all its configs, and those of training.
TINY_NETWORK: dict[str, Any] = {
    "device": "$torch.device('cpu')",
    "patch_size": [24, 24, 24],
    "network_def#feature_size": 8,
    "network_def#window_size": 4,
}
TINY: dict[str, Any] = {
    **TINY_NETWORK,
    "precision": "float32",
    "num_workers": 0,
    "batch_size": 1,
    "max_epochs": 2,
    "val_interval": 1,
    "warmup_epochs": 1,
    "ema#momentum": 0.3,
}


def workflow(bundle: Path, files: Sequence[str | Path], kind: str, **overrides: Any) -> ConfigWorkflow:
    """The workflow of some of a bundle's configs; paths are taken as they are."""
    configs = [str(bundle / "configs" / file) for file in files]
    return ConfigWorkflow(configs, workflow_type=kind, logging_file=False, bundle_root=str(bundle), **overrides)


def complete(flow: ConfigWorkflow) -> ConfigWorkflow:
    """All that the model zoo's tests do with a workflow."""
    flow.initialize()
    assert flow.check_properties() == []
    flow.run()
    flow.finalize()
    return flow


def run_training(bundle: Path, phantom: Path, folder: Path, **options: Any) -> Path:
    """Train in the process and give back the folder, with model.pt and what else a training writes."""
    paths = {"dataset_dir": str(phantom), "output_dir": str(folder), "model_path": str(folder / "model.pt")}
    complete(workflow(bundle, ["train.json"], "train", **{**paths, **options}))
    return folder


def data_of(bundle: Path) -> str:
    """The name of the data set that a bundle trains on."""
    found = re.search(r"datalist\('(\w+)'", (bundle / "configs" / "train.json").read_text())
    assert found, f"{bundle.name}/configs/train.json names no data set of ours in datalist('...')"
    return found.group(1)


def classifies(bundle: Path) -> bool:
    """Whether the bundle gives classes of images, and no images."""
    return "image_size" in json.loads((bundle / "configs" / "train.json").read_text())


def input_size(config: dict[str, Any]) -> list[int]:
    """The size of what the network is trained on."""
    return config["image_size"] if "image_size" in config else config["patch_size"]


def table(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a table of cases, by case."""
    with path.open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def copy_of(folder: Path, target: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, target))


def arguments(**overrides: Any) -> list[str]:
    """Overrides as they stand on the command line."""
    words = []
    for name, value in overrides.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return words


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def sentence(self) -> str:
        """The one sentence that a mistake ends in; fails where there is more or less."""
        assert self.code == 1, self.text
        assert "Traceback" not in self.text, self.text
        *_, sentence, hint = self.err.rstrip().splitlines()
        assert hint == "(set MONAI_EXT_TRACEBACK=1 to see where it comes from)", self.text
        assert sentence.startswith("error: ") and self.text.count("error: ") == 1, self.text
        return sentence.removeprefix("error: ")


def monai_bundle(*words: str, cwd: Path = ROOT, seconds: float = 300) -> Outcome:
    """``python -m monai.bundle`` with these words.

    On Linux it runs in a fork of this process, which has MONAI imported already; that is all the difference, and it
    is most of the time.
    """
    if sys.platform != "linux":
        return fresh_python("-m", "monai.bundle", *words, cwd=cwd, seconds=seconds)
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("out", "err")]
        process = os.fork()
        if process == 0:
            code = 1
            try:
                code = _as_main(words, cwd, outputs)
            finally:
                os._exit(code)
        deadline = time.monotonic() + seconds
        while (ended := os.waitpid(process, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(process, signal.SIGKILL)
            time.sleep(0.02)
        code = os.waitstatus_to_exitcode(ended[1])
        return Outcome(code, *(path.read_text(encoding="utf-8") if path.exists() else "" for path in outputs))


def _as_main(words: Sequence[str], cwd: Path, outputs: Sequence[Path]) -> int:
    for descriptor, path in zip((1, 2), outputs):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.excepthook = sys.__excepthook__
    sys.argv = ["monai.bundle", *words]
    os.environ.pop("MONAI_EXT_TRACEBACK", None)
    os.chdir(cwd)
    # makes PyTorch's pool of threads anew after the fork, for which the threads that load data would race
    torch.set_num_threads(torch.get_num_threads())
    code: Any = 0
    try:
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 1


def fresh_python(*words: str, cwd: Path = ROOT, seconds: float = 300) -> Outcome:
    """A new Python with these words, on the CPU."""
    environment = {key: value for key, value in os.environ.items() if key != "MONAI_EXT_TRACEBACK"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=seconds
    )
    return Outcome(result.returncode, result.stdout, result.stderr)


def quoted(path: Path) -> str:
    """A path for a regular expression."""
    return re.escape(str(path))
