"""Checks of a bundle's configs: readable, complete, of one mind, and free of this machine's paths."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties

from monai_ext.bundle.problem import Problem, Skipped

# ids that the commands of MONAI and of the zoo run
RUNS = {"train.json": ("initialize", "run", "finalize"), "inference.json": ("initialize", "run", "finalize")}
PROPERTIES: Mapping[str, Mapping[str, Any]] = {"train.json": TrainProperties, "inference.json": InferProperties}
SAME = ("network_def", "patch_size", "image_size", "class_names", "model_path")
OVERLAYS = {"evaluate.json": ("train.json",), "multi_gpu_train.json": ("train.json",)}


def configs(bundle: Path) -> Iterator[Problem]:
    """Every config is JSON, or YAML that MONAI reads."""
    for path in _paths(bundle):
        try:
            content = ConfigParser.load_config_file(str(path))
        except Exception as error:
            yield Problem(f"{path.name} cannot be read ({' '.join(str(error).split())[:200]}).", "correct it.")
            continue
        for where, value in walk(content):
            if isinstance(value, str) and value.startswith("%") and not value.startswith(("%#", "%::")):
                yield Problem(
                    f"{path.name}: {where} is {value}, another file, which MONAI opens from the current folder.",
                    "put its content here, so that the bundle runs from anywhere.",
                )
    if not list((bundle / "configs").glob("*.json")) and _paths(bundle):
        yield Problem("there are YAML configs alone.", "write JSON: monai.bundle.load() reads no other form.")


def ids(bundle: Path) -> Iterator[Problem]:
    """The ids that MONAI's commands and workflows look for."""
    for name, runs in RUNS.items():
        parser = _parser(bundle, name)
        if parser is None:
            continue
        for wanted in runs:
            if wanted not in parser:
                yield Problem(f"{name} has no {wanted!r}.", f'add it, such as "{wanted}": [...].')
        for title, prop in PROPERTIES[name].items():
            config_id = str(prop["id"])
            if prop.get("required") and not config_id.startswith("_meta_") and config_id not in parser:
                yield Problem(f"{name} has no {config_id!r} ({title}).", "add it: MONAI's workflows need it.")
    if "training" not in (_parser(bundle, "train.json") or {"training": ""}):
        yield Problem("train.json has no 'training'.", 'add "training": "$@run", for `monai.bundle run training`.')


def targets(bundle: Path) -> Iterator[Problem]:
    """Classes are named in full and can be imported."""
    for path in _readable(bundle):
        names = {value for where, value in walk(_load(path)) if where.split("#")[-1] == "_target_"}
        for name in sorted(names, key=str):
            if not isinstance(name, str) or name.startswith(("$", "@")):
                continue
            if "." not in name:
                if not _of_monai(name):
                    yield Problem(f"{path.name}: MONAI has no {name}.", "give the full dotted path of the class.")
                continue
            try:
                found = locate(name)
            except Exception as error:
                yield Problem(f"{path.name}: {name} cannot be imported ({error}).", "install what it needs.")
                continue
            if not callable(found):
                yield Problem(f"{path.name}: there is no {name}.", "correct the path, or install its package.")


def paths(bundle: Path) -> Iterator[Problem]:
    """No paths of the machine on which the bundle was made."""
    for path in _readable(bundle):
        for where, value in walk(_load(path)):
            if not isinstance(value, str) or where.split("#")[-1].startswith("_desc"):
                continue
            if where.split("#")[-1] in ("dataset_dir", "data_list_file_path", "datalist"):
                continue  # the user's data
            if re.match(r"/\w|~|[A-Za-z]:[\\/]", value) or "../" in value:
                yield Problem(
                    f"{path.name}: {where} is {value}, which is outside of the bundle.",
                    "begin it with $@bundle_root + '/...'.",
                )


def hashes(bundle: Path) -> Iterator[Problem]:
    """A hash comes with its type, since MONAI's commands have different defaults."""
    for path in _readable(bundle):
        for where, value in walk(_load(path), inner=True):
            if isinstance(value, Mapping) and value.get("hash_val") and not value.get("hash_type"):
                yield Problem(f"{path.name}: {where or 'it'} has hash_val without hash_type.", "add hash_type.")


def agreement(bundle: Path) -> Iterator[Problem]:
    """Inference uses the network that was trained."""
    train, inference = (_parser(bundle, name) for name in ("train.json", "inference.json"))
    if train is None or inference is None:
        raise Skipped("it takes train.json and inference.json")
    for name in SAME:
        if name in train and name in inference and train.get(name) != inference.get(name):
            yield Problem(
                f"{name} of train.json and of inference.json differ.", "make them the same: the weights fit one alone."
            )
    for name, under in OVERLAYS.items():
        if (bundle / "configs" / name).is_file() and all((bundle / "configs" / other).is_file() for other in under):
            try:
                ConfigParser.load_config_files([str(bundle / "configs" / file) for file in (*under, name)])
            except Exception as error:
                yield Problem(f"{name} does not go on top of {under[0]} ({error}).", "correct it.")


def walk(value: Any, where: str = "", inner: bool = False) -> Iterator[tuple[str, Any]]:
    """Every value with its id, however deep; with `inner` also those that hold others."""
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if pairs is None or inner:
        yield where, value
    for key, below in pairs or ():
        yield from walk(below, f"{where}#{key}" if where else str(key), inner)


def _paths(bundle: Path) -> list[Path]:
    found = [path for kind in ("json", "yaml", "yml") for path in (bundle / "configs").glob(f"*.{kind}")]
    return sorted(path for path in found if path.stem != "metadata")


def _readable(bundle: Path) -> list[Path]:
    return [path for path in _paths(bundle) if isinstance(_load(path), dict)]


def _load(path: Path) -> Any:
    try:
        return ConfigParser.load_config_file(str(path))
    except Exception:  # `configs` says so
        return None


def _parser(bundle: Path, name: str) -> ConfigParser | None:
    path = bundle / "configs" / name
    if not path.is_file():
        return None
    content = _load(path)
    return ConfigParser(json.loads(json.dumps(content))) if isinstance(content, dict) else None


def _of_monai(name: str) -> bool:
    from monai.bundle import ComponentLocator

    return ComponentLocator().get_component_module_name(name) is not None
