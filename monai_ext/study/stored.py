"""The stored records of a study: one JSON object, from which every report is made."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema

SCHEMA_NUMBER = 1
STATES = ("complete", "failed", "running", "waiting")
STUDY_TEXTS = ("name", "title", "bundle", "metric", "split")

_TEXT = {"type": "string"}
_NAME = {"type": "string", "minLength": 1}
_NUMBER = {"type": ["number", "null"]}
_POSITIVE = {"type": ["integer", "null"], "minimum": 1}
_AXES = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
_SECONDS = {
    "type": ["object", "null"],
    "required": ["median"],
    "properties": {"median": {"type": "number", "minimum": 0}},
}
_BYTES = {"type": ["number", "null"]}
_MEASURED = {
    "type": ["object", "null"],
    "properties": {
        "step_seconds": _SECONDS,
        "inference_seconds": _SECONDS,
        "step_memory": _BYTES,
        "inference_memory": _BYTES,
        "epoch_steps": _POSITIVE,
    },
}
_EPOCH = {
    "type": "object",
    "required": ["epoch"],
    "properties": {"epoch": {"type": "number"}, "loss": _NUMBER, "value": _NUMBER},
}
_TRIAL = {
    "type": "object",
    "required": ["key", "state", "axes"],
    "properties": {
        "key": _NAME,
        "state": {"enum": list(STATES)},
        "reason": {"type": ["string", "null"]},
        "axes": _AXES,
        "context": _POSITIVE,
        "tokens": _POSITIVE,
        "parameters": _NUMBER,
        "value": _NUMBER,
        "metrics": {"type": ["object", "null"], "additionalProperties": _NUMBER},
        "history": {"type": ["array", "null"], "items": _EPOCH},
        "measured": _MEASURED,
        "machine": {"type": ["object", "null"]},
    },
}
SCHEMA = {
    "type": "object",
    "required": ["schema", "study", "trials"],
    "properties": {
        "schema": {"const": SCHEMA_NUMBER},
        "study": {
            "type": "object",
            "required": [
                *STUDY_TEXTS,
                "baseline",
                "maximize",
                "budget",
                "axes",
                "mixer_axis",
                "seed_axis",
                "tolerance",
            ],
            "properties": {
                **{key: _TEXT for key in STUDY_TEXTS},
                "baseline": {"type": ["string", "null"]},
                "maximize": {"type": "boolean"},
                "budget": {"type": "object", "additionalProperties": {"type": "number"}},
                "trained": {"type": "boolean"},
                "axes": {"type": "array", "items": _NAME, "uniqueItems": True},
                "mixer_axis": {"type": ["string", "null"]},
                "seed_axis": {"type": ["string", "null"]},
                "tolerance": {"type": "number", "minimum": 0},
            },
        },
        "dropped": {
            "type": "array",
            "items": {"type": "object", "required": ["axes", "reason"], "properties": {"axes": _AXES, "reason": _TEXT}},
        },
        "trials": {"type": "array", "items": _TRIAL},
    },
}


def read_results(path: str | Path) -> dict[str, Any]:
    """The records in a file, as `write_report` stores them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or no records of a study; names the place and the bad value.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There are no results at {path}: give the results.json of a study.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): give the results.json of a study.") from error
    check_results(content, str(path))
    return content


def check_results(content: Any, source: str = "the results") -> None:
    """Raises a ValueError in one sentence where `content` is not what a report is made from."""
    problem = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(SCHEMA).iter_errors(content))
    if problem is not None:
        _wrong(source, problem.json_path, _shortened(problem.message))
    study = content["study"]
    for key in ("mixer_axis", "seed_axis"):
        if study[key] is not None and study[key] not in study["axes"]:
            _wrong(source, f"$.study.{key}", f"{study[key]!r} is none of the axes {study['axes']}")
    for i, trial in enumerate(content["trials"]):
        missing = [axis for axis in study["axes"] if axis not in trial["axes"]]
        if missing:
            _wrong(source, f"$.trials[{i}].axes", f"the axis {missing[0]!r} is missing")
        if trial["state"] == "complete" and trial.get("context") is None:
            _wrong(source, f"$.trials[{i}].context", "a complete trial has a context")


def clean(value: Any) -> Any:
    """The same with null in place of numbers that JSON does not know (NaN, infinity)."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: clean(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inside) for inside in value]
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _wrong(source: str, place: str, message: str) -> None:
    raise ValueError(
        f"The records of a study in {source} are wrong at {place}: {message}; correct it, or make them again with the "
        "same version of monai_ext."
    )


def _shortened(message: str, most: int = 200) -> str:
    """A message may quote a whole file."""
    return message if len(message) <= most else f"{message[: most // 2]} … {message[-most // 2 :]}"
