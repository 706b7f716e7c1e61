"""The file that describes a study."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from monai_ext.bench.child import ALLOCATORS
from monai_ext.study.axes import Axis, parse_axes

BUDGETS = ("epochs", "minutes", "steps")
SPLITS = ("validation", "test")
MOMENTS = ("best", "last")
KNOWN = (
    *("name", "title", "bundle", "config_files", "evaluate_files", "dataset_dir", "phantom", "set", "axes", "skip"),
    *("train", "budget", "metric", "input", "baseline", "tolerance", "device", "threads", "allocator", "processes"),
    *("repeats", "max_seconds", "keep_weights", "context_axis", "output_dir"),
)


@dataclass(frozen=True)
class Metric:
    """What a trial is judged by.

    Args:
        name: of the metric in the evaluator's state; empty for its key metric.
        maximize: whether more is better.
        split: ``"validation"``, the evaluator of the training, or ``"test"``, the bundle's evaluation of the weights
            that the training saved.
        at: ``"best"`` or ``"last"`` validation of the training.
    """

    name: str = ""
    maximize: bool = True
    split: str = "validation"
    at: str = "best"


@dataclass(frozen=True)
class Spec:
    """A study as its file describes it; `docs/study.md` explains every field."""

    name: str
    title: str
    folder: Path
    bundle: Path | None
    config_files: tuple[Path, ...]
    evaluate_files: tuple[Path, ...]
    axes: tuple[Axis, ...]
    budget: Mapping[str, float]
    metric: Metric
    settings: Mapping[str, Any] = field(default_factory=dict)
    skip: tuple[Mapping[str, Any], ...] = ()
    dataset_dir: str | None = None
    phantom: Mapping[str, Any] | None = None
    input: Mapping[str, Any] = field(default_factory=dict)
    baseline: str = "softmax"
    tolerance: float = 0.01
    device: str = "auto"
    threads: int | None = None
    allocator: str = "default"
    processes: int = 1
    train: bool = True
    repeats: int = 5
    max_seconds: float = 60.0
    keep_weights: bool = False
    context_axis: str | None = None
    output_dir: str | None = None

    def output(self, given: str | None = None) -> Path:
        """The folder of the results: as given, as the file says, or ``study_output/NAME``."""
        return Path(given or self.output_dir or f"study_output/{self.name}").expanduser().absolute()


def list_plans() -> list[str]:
    """Names of the studies that come with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in _plans().iterdir() if path.name.endswith(".yaml"))


def find_spec(text: str) -> Path:
    """The file of a study: a path, or the name of one that comes with the package.

    Raises:
        FileNotFoundError: neither.
    """
    path = Path(text).expanduser()
    if path.is_file():
        return path.absolute()
    inside = Path(str(_plans() / f"{text}.yaml"))
    if re.fullmatch(r"\w+", text) and inside.is_file():
        return inside
    raise FileNotFoundError(f"there is no study file {text}; those of the package are: {', '.join(list_plans())}.")


def _plans() -> Any:
    return importlib.resources.files("monai_ext.study") / "plans"


def load_spec(text: str) -> Spec:
    """Read the file of a study.

    Args:
        text: a path, or the name of a study of the package.

    Raises:
        FileNotFoundError: no such file, bundle or config.
        ValueError: the file is no YAML, or a field is wrong; the sentence names it.
    """
    path = find_spec(text)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold fields and values, such as bundle: bundles/NAME.")
    try:
        return _spec(content, path)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _spec(content: Mapping[str, Any], path: Path) -> Spec:
    unknown = [name for name in content if name not in KNOWN]
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}; there are {', '.join(KNOWN)}.")
    name = str(content.get("name", path.stem))
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"name must be of letters, digits, '.', '-' and '_', got {name!r}.")
    bundle = None if content.get("bundle") is None else _bundle(str(content["bundle"]), path.parent)
    if bundle is None and "config_files" not in content:
        raise ValueError("say which bundle is trained (bundle: FOLDER), or give config_files.")
    given = content.get("config_files", "train.json")
    evaluation = content.get("evaluate_files")
    metric = _metric(content.get("metric"))
    if evaluation is None:
        evaluation = [*_listed(given), "evaluate.json"] if metric.split == "test" else []
    numbers = {
        key: _number(content, key, least, default, whole)
        for key, least, default, whole in (
            ("tolerance", 0.0, 0.01, False),
            ("processes", 1, 1, True),
            ("repeats", 0, 5, True),
            ("max_seconds", 1, 60.0, False),
        )
    }
    threads = None if content.get("threads") is None else _number(content, "threads", 1, 1, True)
    if content.get("allocator", "default") not in ALLOCATORS:
        raise ValueError(f"allocator must be {' or '.join(ALLOCATORS)}, got {content['allocator']!r}.")
    if content.get("device", "auto") not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {content['device']!r}.")
    axes = parse_axes(_mapping(content, "axes"))
    budget = _budget(_mapping(content, "budget"))
    train = content.get("train", True)
    if not isinstance(train, bool):
        raise ValueError(f"train must be true or false, got {train!r}.")
    if not train and (budget or "metric" in content or not numbers["repeats"]):
        raise ValueError("train: false only measures, so it goes with repeats from 1 on, without budget and metric.")
    if numbers["processes"] > 1 and (metric.split == "test" or (budget and "epochs" not in budget)):
        raise ValueError("processes above 1 go with a budget of epochs, and with the validation's metric.")
    return Spec(
        name=name,
        title=str(content.get("title", name)),
        folder=path.parent,
        bundle=bundle,
        config_files=tuple(_config(item, bundle, path.parent) for item in _listed(given)),
        evaluate_files=tuple(_config(item, bundle, path.parent) for item in _listed(evaluation)),
        axes=axes,
        budget=budget,
        metric=metric,
        settings=_mapping(content, "set"),
        skip=_skip(content.get("skip") or [], axes),
        dataset_dir=None if content.get("dataset_dir") is None else str(content["dataset_dir"]),
        phantom=_phantom(content.get("phantom")),
        input=_mapping(content, "input"),
        baseline=str(content.get("baseline", "softmax")),
        device=content.get("device", "auto"),
        threads=threads,
        train=train,
        allocator=content.get("allocator", "default"),
        keep_weights=bool(content.get("keep_weights", False)),
        context_axis=_context_axis(content.get("context_axis"), axes),
        output_dir=None if content.get("output_dir") is None else str(content["output_dir"]),
        **numbers,
    )


def _bundle(text: str, folder: Path) -> Path:
    for candidate in (Path(text).expanduser(), folder / text, Path("bundles") / text):
        if candidate.is_dir():
            return candidate.absolute()
    raise FileNotFoundError(f"bundle: there is no folder {text}, here or beside the study's file.")


def _config(text: str, bundle: Path | None, folder: Path) -> Path:
    beside = [bundle / "configs" / text, bundle / text] if bundle else []
    inside = Path(str(importlib.resources.files("monai_ext.study") / "setups" / text))
    for candidate in (*beside, folder / text, Path(text).expanduser(), inside):
        if candidate.is_file():
            return candidate.absolute()
    where = f"in {bundle / 'configs'}" if bundle else f"in {folder} or among the package's setups"
    raise FileNotFoundError(f"there is no config {text} {where}.")


def _listed(value: Any) -> list[str]:
    return [str(value)] if isinstance(value, str) else [str(item) for item in value or []]


def _mapping(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} must hold names and values, got {value!r}.")
    return {str(name): item for name, item in value.items()}


def _number(content: Mapping[str, Any], key: str, least: float, default: float, whole: bool) -> Any:
    value = content.get(key, default)
    right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not right or value < least:
        raise ValueError(f"{key} must be a {'whole ' if whole else ''}number from {least:g} on, got {value!r}.")
    return value


def _budget(content: Mapping[str, Any]) -> dict[str, float]:
    wrong = [name for name in content if name not in BUDGETS]
    if wrong or len(content) > 1:
        raise ValueError(f"budget must have one of {', '.join(BUDGETS)}, got {', '.join(content)}.")
    for name, value in content.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or value <= 0 or (name != "minutes" and value != int(value)):
            raise ValueError(f"budget: {name} must be a positive {'' if name == 'minutes' else 'whole '}number.")
    return dict(content)


def _metric(value: Any) -> Metric:
    content = {"name": value} if isinstance(value, str) else value or {}
    if not isinstance(content, Mapping) or set(content) - set(Metric.__dataclass_fields__):
        raise ValueError(f"metric must be a name, or have name, maximize, split and at; got {value!r}.")
    metric = Metric(**content)
    for what, choice, known in (("split", metric.split, SPLITS), ("at", metric.at, MOMENTS)):
        if choice not in known:
            raise ValueError(f"metric: {what} must be {' or '.join(known)}, got {choice!r}.")
    return metric


def _skip(rules: Any, axes: tuple[Axis, ...]) -> tuple[Mapping[str, Any], ...]:
    names = [axis.name for axis in axes]
    if not isinstance(rules, list) or not all(isinstance(rule, Mapping) for rule in rules):
        raise ValueError("skip must be a list of rules, each of axes and values.")
    for rule in rules:
        wrong = [name for name in rule if name not in names]
        if wrong or not rule:
            raise ValueError(f"skip: the axes are {', '.join(names)}; got {rule!r}.")
    return tuple(rules)


def _phantom(value: Any) -> Mapping[str, Any] | None:
    if value is None:
        return None
    content = {"name": value} if isinstance(value, str) else value
    if not isinstance(content, Mapping) or "name" not in content or set(content) - {"name", "cases"}:
        raise ValueError(f"phantom must be a data set's name, or have name and cases; got {value!r}.")
    return content


def _context_axis(value: Any, axes: tuple[Axis, ...]) -> str | None:
    if value is None:
        return None
    labels = next((axis.labels for axis in axes if axis.name == value), None)
    if labels is None:
        raise ValueError(f"context_axis must be one of the axes, got {value!r}.")
    if not all(isinstance(label, int) and label > 0 for label in labels):
        raise ValueError(f"context_axis: the labels of {value} must be whole numbers of tokens, got {list(labels)}.")
    return str(value)
