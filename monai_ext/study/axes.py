"""The axes of a study: what varies, and the trials that follow."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Label = str | int | float

SEED = "seed"
# an axis of this name sets the first of these config ids that the bundle has
SHORT: dict[str, tuple[str, ...]] = {
    "mixer": ("network_def#mixer",),
    "patch_size": ("network_def#patch_size",),
    "window_size": ("network_def#window_size",),
    "image_size": ("image_size", "patch_size"),
    "width": ("network_def#hidden_size", "network_def#feature_size"),
    "depth": ("network_def#num_layers", "network_def#depths"),
    "seed": ("seed",),
}


@dataclass(frozen=True)
class Axis:
    """One axis.

    Args:
        name: of the axis.
        ids: candidates for the config id that a value belongs to, the first one that exists is taken; empty where the
            values are settings themselves.
        values: what the config id gets; or for each point of the axis config ids and what they get.
        labels: of the values in tables and plots.
    """

    name: str
    ids: tuple[str, ...]
    values: tuple[Any, ...]
    labels: tuple[Label, ...]


def parse_axes(content: Mapping[str, Any]) -> tuple[Axis, ...]:
    """Axes as a study's file gives them.

    - ``mixer: [softmax, seqnorm]``: the values of a known name (`SHORT`), or of a config id;
    - ``patch: {id: network_def#patch_size, values: [16, 8], labels: [coarse, fine]}``;
    - ``size: {points: {small: {network_def#depths: [2, 2], batch_size: 8}, large: {…}}}``.

    Raises:
        ValueError: an axis without values, with twice the same, or written in another way.
    """
    if not content:
        raise ValueError("axes: there is nothing to vary; give at least one axis, such as mixer: [softmax, seqnorm].")
    return tuple(_axis(name, value) for name, value in content.items())


def _axis(name: str, value: Any) -> Axis:
    ids: tuple[str, ...] = SHORT.get(name, (name,))
    labels: Sequence[Label] | None = None
    if isinstance(value, Mapping):
        wrong = set(value) - {"id", "values", "labels", "points"}
        if wrong or ("points" in value) == ("values" in value) or ("points" in value and len(value) > 1):
            raise ValueError(f"axes: {name} must be a list, or have values (and id, labels), or points.")
        if "points" in value:
            points = value["points"]
            if not isinstance(points, Mapping) or not all(isinstance(point, Mapping) for point in points.values()):
                raise ValueError(f"axes: the points of {name} must be names with config ids and values.")
            ids, labels, value = (), [str(label) for label in points], list(points.values())
        else:
            ids = (str(value["id"]),) if "id" in value else ids
            labels, value = value.get("labels"), value["values"]
    if not isinstance(value, list) or not value:
        raise ValueError(f"axes: {name} must be a list of values, got {value!r}.")
    labels = [label_of(item) for item in (value if labels is None else labels)]
    if len(labels) != len(value) or len({str(label) for label in labels}) != len(labels):
        raise ValueError(f"axes: {name} needs as many different labels as values, got {labels}.")
    return Axis(name, ids, tuple(value), tuple(labels))


def label_of(value: Any) -> Label:
    """What a value is called in tables and plots: short, and different for different values."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, Mapping) and "name" in value:
        options = ", ".join(f"{key}={label_of(item)}" for key, item in value.items() if key != "name")
        return f"{value['name']} ({options})" if options else str(value["name"])
    if isinstance(value, (list, tuple)) and value:
        parts = [str(label_of(item)) for item in value]
        alike = len(set(parts)) == 1 and len(parts) > 1
        text = all(isinstance(item, (int, float)) for item in value)
        return "x".join(parts) if text and not alike else f"{parts[0]}^{len(parts)}" if alike else "/".join(parts)
    return json.dumps(value)


def combinations(axes: Sequence[Axis], skip: Iterable[Mapping[str, Any]]) -> list[tuple[dict[str, Label], list[Any]]]:
    """Every combination of the axes' values, without those that a rule leaves out; all of one seed before the next.

    A rule is a mapping from axes to a label, a value or a list of them; it leaves out what fits all its axes.

    Returns:
        for each combination the labels by axis, and the values in the axes' order
    """
    found = []
    rules = list(skip)
    product = itertools.product(*(range(len(axis.values)) for axis in axes))
    for chosen in sorted(product, key=lambda chosen: [i for axis, i in zip(axes, chosen) if axis.name == SEED]):
        labels = {axis.name: axis.labels[i] for axis, i in zip(axes, chosen)}
        values = [axis.values[i] for axis, i in zip(axes, chosen)]
        by_name = dict(zip(labels, values))
        if not any(all(_fits(want, labels[name], by_name[name]) for name, want in rule.items()) for rule in rules):
            found.append((labels, values))
    return found


def _fits(want: Any, label: Label, value: Any) -> bool:
    wanted = want if isinstance(want, list) and value != want else [want]
    return any(item in (label, value) for item in wanted)
