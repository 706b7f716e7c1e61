"""The configs of the workflows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any

from monai.bundle import ComponentLocator, ConfigParser, ReferenceResolver
from monai.bundle.properties import InferProperties, TrainProperties
from monai.bundle.utils import ID_REF_KEY
from monai.utils import BundleProperty, BundlePropertyConfig

from monai_ext.bundle.carry_configs import walk
from monai_ext.bundle.checks.problems import Problem
from monai_ext.bundle.checks.reading import KINDS, config_file, config_files, load, workflow

__all__ = ["ids", "paths", "properties", "same_network", "targets"]

_PROPERTIES = {"train": TrainProperties, "infer": InferProperties}


def ids(bundle: Path) -> list[Problem]:
    """Ids that the commands run."""
    found = []
    for stem, files in _workflows(bundle):
        config = ConfigParser.load_config_files([str(path) for path in files])
        named = {"train": "training"}.get(stem)
        if "run" not in config and named not in config and not {"evaluating", "inferring"} & set(config):
            mend = 'add "run": ["$@...run()"], which `python -m monai.bundle run` takes by itself'
            found.append(Problem(f"configs/{files[-1].name} has no id run", mend))
        for _, text in walk(config):
            for name in _references(text):
                if name.split("::")[0] not in config and not name.startswith("_meta_"):
                    what = f"configs/{files[-1].name}: @{name} is defined nowhere"
                    found.append(Problem(what, "define it, or correct the reference"))
    return list(dict.fromkeys(found))


def targets(bundle: Path) -> list[Problem]:
    """Every ``_target_`` can be imported with the bundle's folder on the path."""
    found = []
    for path in config_files(bundle):
        names = {value for key, value in walk(load(path)) if key == "_target_" and isinstance(value, str)}
        for name in sorted(names):
            if name.startswith(("$", "@")):
                continue
            if "." not in name:
                modules = ComponentLocator().get_component_module_name(name)
                if not isinstance(modules, str):
                    there = "MONAI has no class of that name" if modules is None else f"it is in {', '.join(modules)}"
                    what = f"configs/{path.name}: {name} is a bare name, and {there}"
                    found.append(Problem(what, "write the full dotted name"))
                continue
            try:
                component = locate(name)
            except ErrorDuringImport as error:
                what = f"configs/{path.name}: {name} cannot be imported ({' '.join(str(error.value).split())})"
                found.append(Problem(what, "install what it needs, and name that in required_packages_version"))
                continue
            if not callable(component):
                mend = "correct the name, install its package, or let `bundle export` put its code into scripts/"
                found.append(Problem(f"configs/{path.name}: {name} cannot be imported", mend))
    return found


def paths(bundle: Path) -> list[Problem]:
    """No path of this machine, none out of the bundle, and no reference to other files by ``%``."""
    found = []
    for path in config_files(bundle):
        for key, value in walk(load(path)):
            if not isinstance(value, str) or key == "_desc_":
                continue
            what = f"configs/{path.name}: {key or 'an entry'} is {value}"
            if re.match(r"/\w|~/|[A-Za-z]:\\", value) and "data" not in key:
                found.append(Problem(what, "begin at @bundle_root instead of a folder of this machine"))
            elif re.match(r"\.\./", value) or "'../" in value:
                found.append(Problem(what, "a shared bundle has nothing beside it: put the file into the bundle"))
            elif re.match(r"%[^#]*\.(?:json|ya?ml)", value):
                found.append(Problem(what, "MONAI looks for it in the current folder: write the content itself"))
    return found


def properties(bundle: Path) -> list[Problem]:
    """The ids that MONAI looks for in a workflow are there, as far as one can see without data."""
    found = []
    for stem, files in _workflows(bundle):
        parser = ConfigParser(ConfigParser.load_config_files([str(path) for path in files]))
        for name, entry in _PROPERTIES[KINDS[stem]].items():
            there = entry[BundlePropertyConfig.ID] in parser
            if entry[BundleProperty.REQUIRED] and not there:
                what = f"configs/{files[-1].name} has no {entry[BundlePropertyConfig.ID].replace('::', '#')}"
                found.append(Problem(what, f"MONAI's {KINDS[stem]} workflow needs it: {entry[BundleProperty.DESC]}"))
            elif not entry[BundleProperty.REQUIRED] and not _refers(parser, name, entry):
                used = entry[BundlePropertyConfig.REF_ID].replace("::", "#")
                mend = f"MONAI wants it to be @{entry[BundlePropertyConfig.ID].replace('::', '#')}"
                found.append(Problem(f"configs/{files[-1].name}: {used} is {parser.get(used)}", mend))
    return found


def same_network(bundle: Path) -> list[Problem]:
    """Weights of the training fit the inference."""
    files = [config_file(bundle, stem) for stem in ("train", "inference")]
    train, inference = (load(path).get("network_def") if path else None for path in files)
    if train is None or inference is None or train == inference:
        return []
    different = sorted(key for key in {*train, *inference} if train.get(key) != inference.get(key))
    what = f"network_def differs between train and inference in {', '.join(different)}"
    return [Problem(what, "make them the same, or the weights of a training will not fit the inference")]


def _workflows(bundle: Path) -> Iterator[tuple[str, list[Path]]]:
    for stem in KINDS:
        files = workflow(bundle, stem)
        if files:
            yield stem, files


def _references(text: Any) -> list[str]:
    if not isinstance(text, str) or not text.startswith(("$", ID_REF_KEY)) or re.match(r"\$\s*(?:import|from)\s", text):
        return []
    return sorted(name for name in ReferenceResolver.match_refs_pattern(text) if name and not name.startswith("::"))


def _refers(parser: ConfigParser, name: str, entry: dict[str, Any]) -> bool:
    """As MONAI's check: an optional property is what the other id refers to, unless that is an expression."""
    reference = entry.get(BundlePropertyConfig.REF_ID)
    if reference is None or name in ("evaluator", "val_interval"):
        return True
    used = parser.get(reference)
    wanted = ID_REF_KEY + entry[BundlePropertyConfig.ID]
    return not isinstance(used, str) or used.startswith("$") or used.replace("#", "::") == wanted
