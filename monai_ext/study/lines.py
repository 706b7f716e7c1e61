"""Which trials make a line: what stays the same while the context changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Trial = Mapping[str, Any]


def find_lines(study: Mapping[str, Any], trials: Sequence[Trial]) -> tuple[dict[int, str], dict[str, str]]:
    """The name of each trial's line, by the trial's index, and the baseline of each line that has one.

    A name is the mixer's value and what else tells lines apart ("softmax, small"; a number goes with its axis'
    name). A line's baseline is the one with the study's `baseline` as its mixer and all else the same; a study without
    mixers has the line with that name for its baseline.
    """
    mixer, seed = study["mixer_axis"], study["seed_axis"]
    moving = context_axes(study, trials)
    fixed = [axis for axis in study["axes"] if axis not in (seed, *moving)]
    keys = [tuple((axis, trial["axes"].get(axis)) for axis in fixed) for trial in trials]
    # a line that still has several groups at one context falls apart into one for each of them
    doubled = _doubled(zip(keys, trials), moving)
    keys = [
        key + tuple((axis, trial["axes"].get(axis)) for axis in moving) if key in doubled else key
        for key, trial in zip(keys, trials)
    ]
    several = {axis for axis in study["axes"] if len({trial["axes"].get(axis) for trial in trials}) > 1}
    names = {key: _name(key, mixer, several, str(study.get("bundle") or study["name"])) for key in keys}
    baselines = {}
    for key, name in names.items():
        as_base = tuple((axis, study["baseline"] if axis == mixer else value) for axis, value in key)
        wanted = names.get(as_base) if mixer else study["baseline"]
        if wanted in names.values():
            baselines[name] = wanted
    return {i: names[key] for i, key in enumerate(keys)}, baselines


def context_axes(study: Mapping[str, Any], trials: Sequence[Trial]) -> list[str]:
    """The axes, other than the mixer and the seed, of which a change alone changes the context.

    Where several do, and two settings of them have the same context, only one of them runs along the lines: of
    numbers rather than texts, with most values.
    """
    mixer, seed = study["mixer_axis"], study["seed_axis"]
    moving = []
    for axis in study["axes"]:
        contexts: dict[tuple[Any, ...], set[int]] = defaultdict(set)
        for trial in trials:
            rest = tuple(trial["axes"].get(other) for other in study["axes"] if other not in (axis, seed))
            contexts[rest].add(trial["context"])
        if axis not in (mixer, seed) and any(len(found) > 1 for found in contexts.values()):
            moving.append(axis)
    fixed = [axis for axis in study["axes"] if axis not in (seed, *moving)]
    keys = [tuple(trial["axes"].get(axis) for axis in fixed) for trial in trials]
    if len(moving) < 2 or not _doubled(zip(keys, trials), moving):
        return moving
    values = {axis: {trial["axes"].get(axis) for trial in trials} for axis in moving}
    return [max(moving, key=lambda axis: (not any(isinstance(v, str) for v in values[axis]), len(values[axis])))]


def _doubled(pairs: Iterable[tuple[tuple[Any, ...], Trial]], moving: Sequence[str]) -> set[tuple[Any, ...]]:
    """The keys under which one context comes from several settings."""
    settings: dict[tuple[Any, int], set[tuple[Any, ...]]] = defaultdict(set)
    for key, trial in pairs:
        settings[key, trial["context"]].add(tuple(trial["axes"].get(axis) for axis in moving))
    return {key for (key, _), found in settings.items() if len(found) > 1}


def _name(key: Sequence[tuple[str, Any]], mixer: str | None, several: set[str], otherwise: str) -> str:
    parts = [str(value) for axis, value in key if axis == mixer]
    parts += [
        value if isinstance(value, str) else f"{axis} {value}"
        for axis, value in key
        if axis != mixer and axis in several
    ]
    return ", ".join(parts) or otherwise
