"""From a study's file to its planned trials: the phantom drawn, the device chosen."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from tqdm import tqdm

from monai_ext.bench.measure import find_device
from monai_ext.study.bundle_config import BundleConfig
from monai_ext.study.plan import Planned, free_memory, plan
from monai_ext.study.spec import Spec, load_spec


@dataclass(frozen=True)
class Prepared:
    config: BundleConfig
    folder: Path
    device: torch.device
    planned: list[Planned]


def prepare(
    file: str,
    output_dir: str | None = None,
    dataset_dir: str | None = None,
    device_of: int | None = None,
    plan_trials: bool = True,
) -> Prepared:
    """Read a study, draw its phantom where it wants one, and plan it.

    Args:
        file: of the study, or a name.
        output_dir, dataset_dir: in place of what the file says.
        device_of: number of a worker, which takes the GPU of that number.
        plan_trials: False where the trials are found in the storage.

    Raises:
        ValueError, FileNotFoundError: as the parts say.
    """
    spec = load_spec(file)
    folder = spec.output(output_dir)
    if dataset_dir is not None:
        spec = dataclasses.replace(spec, dataset_dir=dataset_dir, phantom=None)
    elif spec.phantom is not None:
        spec = dataclasses.replace(spec, dataset_dir=str(_drawn(spec, folder)))
    device = _choose(spec.device, device_of, spec.processes)
    config = BundleConfig(spec)
    if not plan_trials:
        return Prepared(config, folder, device, [])
    with tqdm(desc="plan", unit="trial", leave=False, disable=not sys.stderr.isatty()) as bar:

        def announce(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        planned = plan(config, free_memory(device), announce)
    return Prepared(config, folder, device, planned)


def _drawn(spec: Spec, folder: Path) -> Path:
    from monai_ext.data.manifest import load_manifest
    from monai_ext.data.phantom import draw_phantom

    assert spec.phantom is not None
    root = folder / "data"
    root.mkdir(parents=True, exist_ok=True)
    manifest = load_manifest(str(spec.phantom["name"]))
    with FileLock(root / ".lock", timeout=600):
        if not (root / manifest.folder).is_dir():
            draw_phantom(manifest.name, root, cases=spec.phantom.get("cases"))
    return root


def _choose(name: str, number: int | None, processes: int) -> torch.device:
    """The device; a worker's own ones, one a process, alone are visible to what it starts."""
    device = find_device(name)
    if device.type == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif number is not None and torch.cuda.device_count() > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count())))).split(
            ","
        )
        own = [visible[(number * processes + i) % len(visible)] for i in range(processes)]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(own))
    return device
