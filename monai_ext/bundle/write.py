"""The folder of a bundle, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from monai_ext.bundle.configs import TEMPLATES, Bundle, configs
from monai_ext.bundle.json_files import write_json
from monai_ext.bundle.pairing import Case
from monai_ext.data.listed import SECTIONS


def data_list(bundle: Bundle, folder: Path, splits: dict[str, str]) -> dict[str, Any]:
    """data/datalist.json: paths below `folder`."""
    names = {str(number): name for number, name in enumerate(bundle.plan.class_names)}
    content: dict[str, Any] = {"name": bundle.name, "task": bundle.task, "seed": bundle.seed, "labels": names}
    content |= {"folder": folder.as_posix()} | {section: [] for section in SECTIONS.values()}
    for case in bundle.found.cases:
        split = splits.get(case.name, "unlabelled")
        content[SECTIONS[split]].append(_entry(bundle, case, folder))
    if len(splits) == 1:  # one case must do for both
        content["validation"] = list(content["training"])
    return content


def _entry(bundle: Bundle, case: Case, folder: Path) -> dict[str, Any]:
    files = [path.relative_to(folder).as_posix() for path in case.images]
    entry: dict[str, Any] = {"image": files[0] if len(files) == 1 else files}
    if isinstance(case.label, Path):
        entry["label"] = case.label.relative_to(folder).as_posix()
    elif case.label is not None and bundle.task == "classification":
        entry["label"] = bundle.plan.class_names.index(case.label)
    entry["case"] = case.name
    return entry | ({"group": case.group} if case.group else {})


def common_folder(cases: list[Case]) -> Path:
    """The deepest folder that holds all files."""
    paths = [path for case in cases for path in (*case.images, case.label) if isinstance(path, Path)]
    return Path(os.path.commonpath([str(path.parent) for path in paths]))


def write_bundle(bundle: Bundle, content: dict[str, Any], texts: dict[str, str], overwrite: bool) -> None:
    """The whole folder; one that is there is replaced only if `overwrite` says so, and its weights and runs stay.

    Raises:
        OSError: the folder cannot be written.
    """
    target = bundle.root
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{bundle.name}.", dir=target.parent) as place:
        new = Path(place) / bundle.name
        for name in ("configs", "docs", "data", "models"):
            (new / name).mkdir(parents=True)
        for name, config in configs(bundle).items():
            write_json(new / "configs" / f"{name}.json", config)
        write_json(new / "data" / "datalist.json", content)
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8")
        shutil.copyfile(TEMPLATES / "logging.conf", new / "configs" / "logging.conf")
        shutil.copyfile(TEMPLATES / "LICENSE", new / "LICENSE")
        if not target.exists():
            os.replace(new, target)
            return
        assert overwrite
        for path in sorted(new.rglob("*")):
            if path.is_file():
                kept = target / path.relative_to(new)
                kept.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, kept)
        (target / "models").mkdir(exist_ok=True)
