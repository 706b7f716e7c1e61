"""The bundles that a server is to offer: found, looked through and copied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ext.bundle import find
from monai_ext.bundle.json_files import read_json, write_json
from monai_ext.data.staging import staged

__all__ = ["Bundle", "copy_bundle", "find_bundle", "find_bundles"]

WEIGHTS = ("models/model.pt", "models/model.ts")
SHIPPED = "models/shipped.pt"


@dataclass(frozen=True)
class Bundle:
    """A bundle that MONAI Label can run."""

    folder: Path
    metadata: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def segments(self) -> bool:
        """Whether it gives label maps; no other kind can learn from what annotators draw."""
        return "segmentation" in self._formats

    @property
    def classifies(self) -> bool:
        """Whether it gives classes of images."""
        return "classes" in self._formats

    @property
    def _formats(self) -> set[str]:
        outputs = self.metadata.get("network_data_format", {}).get("outputs", {})
        return {output.get("format", "") for output in outputs.values()}


def find_bundles(text: str, more: Sequence[Path] = ()) -> list[Bundle]:
    """The bundles of a list with commas, each a path or a name.

    Args:
        text: such as ``hippocampus_mri_segmentation,/home/me/my_segmentation``.
        more: folders in which names are looked for after the usual ones.

    Raises:
        FileNotFoundError: no such bundle, or one without what MONAI Label reads.
        ValueError: none or one twice, a damaged metadata.json, or a name that hides the task.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ValueError("--bundles names no bundle: give names or paths, with commas between.")
    found = [find_bundle(word, more) for word in words]
    names = [bundle.name for bundle in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"--bundles has {twice!r} twice: a server tells bundles apart by their folders' names.")
    return found


def find_bundle(word: str, more: Sequence[Path] = ()) -> Bundle:
    """One bundle by its path or name; see :func:`find_bundles`."""
    folder = find.find_bundle(word, more)
    for name in ("metadata.json", "inference.json"):
        if not (folder / "configs" / name).is_file():
            raise FileNotFoundError(f"{folder} has no configs/{name}, which MONAI Label reads; add it.")
    if not any((folder / weights).is_file() for weights in WEIGHTS):
        raise FileNotFoundError(f"{folder} has no weights: train it, or put a model.pt or model.ts into its models.")
    path = folder / "configs" / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({' '.join(str(error).split())}); mend it.") from error
    bundle = Bundle(folder, metadata)
    if bundle.classifies and "classification" not in bundle.name.lower():
        raise ValueError(
            f"{folder} gives classes, which MONAI Label knows by 'classification' in the folder's name: rename it."
        )
    return bundle


def copy_bundle(bundle: Bundle, models: Path, replace: bool = False) -> str:
    """Put a copy into the server's folder of bundles, whole or not at all, and say what was done.

    A copy, because a training in the server overwrites ``models/model.pt``; ``models/shipped.pt`` in the copy keeps
    the weights it began with, and viewers offer both. A copy that is there already may hold weights trained in the
    server and stays, or with ``replace`` moves aside. Outputs of trainings and evaluations are left out, and so is the
    training of a bundle that gives no label maps: the server would offer to train it on label maps. Where a bundle's
    data store classes as other values, the copy's training reads classes, which are what annotators draw in a server.
    """
    target = models / bundle.name
    if bundle.folder == target.resolve():
        return f"{bundle.name}: in the app folder already."
    if target.exists() and not replace:
        return f"{bundle.name}: in the app folder already and kept as it is; --replace takes it anew."
    aside = _aside(target) if target.exists() else None
    with staged(target) as fresh:
        shutil.copytree(
            bundle.folder, fresh, ignore=shutil.ignore_patterns(*find.LEFT_BEHIND, ".*"), dirs_exist_ok=True
        )
        if (fresh / WEIGHTS[0]).is_file():
            shutil.copy2(fresh / WEIGHTS[0], fresh / SHIPPED)
        for path in (fresh / "configs").glob("train.*"):
            if not bundle.segments:
                path.unlink()
            elif path.suffix == ".json":
                _learn_from_classes(path)
        if aside is not None:
            target.rename(aside)
    return f"{bundle.name}: copied from {bundle.folder}" + (f"; the former copy is {aside.name}." if aside else ".")


def _learn_from_classes(config: Path) -> None:
    """A training whose label maps hold the classes 0, 1, 2, ..., whatever values the bundle's own data have."""
    content = read_json(config)
    todo, changed = [content], False
    while todo:
        entry = todo.pop()
        todo += entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
        if not isinstance(entry, dict) or not str(entry.get("_target_")).endswith(".ClassesOfd"):
            continue
        values = entry.get("values")
        # of two values without 1 the transform takes classes by itself
        if isinstance(values, list) and (len(values) > 2 or 1 in values):
            classes = list(range(len(values)))
            entry["values"], changed = classes, changed or values != classes
    if changed:
        write_json(config, content)


def _aside(target: Path) -> Path:
    number = 1
    while (free := target.with_name(f"{target.name}.replaced{number}")).exists():
        number += 1
    return free
