"""Train, validation and test, by a seeded hash of the name of the case, or of its patient."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from monai_ext.bundle.pairing import Case
from monai_ext.data.hash_split import place, split_at

# what names of one patient's images differ in, behind a number: the side, or a further number
_SIDE = re.compile(r"(.*\d)[ _-]?(?:l|r|left|right|od|os)", re.IGNORECASE)
_NUMBER = re.compile(r"(.*\d.*?)[ _-](?:[a-z]+[ _-]?)?\d+", re.IGNORECASE)
MOST_ALIKE = 20  # images whose names begin alike; more are taken for those of a series, a year or a place

FRACTIONS = {"train": 0.8, "validation": 0.1, "test": 0.1}


def split_cases(cases: Sequence[Case], seed: int, by_class: bool = False) -> dict[str, str]:
    """The split of every case, by its name.

    A case's split depends on its own name (or its group's) and the seed. Where the hash leaves a split empty, the
    group next to it moves there: validation needs two groups, test three. With ``by_class`` that is seen to in every
    class, where no group has cases of several.
    """
    if any(case.split for case in cases):
        return _given(cases, seed)
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.group or case.name].append(case)
    classes = {name: {str(case.label) for case in members} for name, members in groups.items()}
    strata: dict[str, list[str]] = defaultdict(list)
    apart = by_class and all(len(found) == 1 for found in classes.values())
    for name in groups:
        strata[next(iter(classes[name])) if apart else ""].append(name)
    splits = {}
    for names in strata.values():
        chosen = _split_names(names, seed)
        splits |= {case.name: chosen[name] for name in names for case in groups[name]}
    return splits


def alike_across_splits(cases: Sequence[Case], splits: dict[str, str]) -> list[str]:
    """Names of cases that may be of one patient (``07L`` and ``07R``, ``12_1`` and ``12_2``) but are in several splits.

    Cases of known patients, and those whose split came with the data, are not doubted.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        found = _SIDE.fullmatch(case.name) or _NUMBER.fullmatch(case.name)
        if found and not case.group and not case.split:
            alike[found[1]].append(case.name)
    few = [names for names in alike.values() if 1 < len(names) <= min(MOST_ALIKE, len(cases) - 1)]
    return [name for names in few if len({splits[name] for name in names}) > 1 for name in sorted(names)]


def _split_names(names: Sequence[str], seed: int) -> dict[str, str]:
    places = {name: place(name, seed) for name in names}
    splits = {name: split_at(places[name], FRACTIONS) for name in names}
    for wanted, least in (("validation", 2), ("test", 3)):
        if len(names) >= least and wanted not in splits.values():
            train = sorted((name for name in names if splits[name] == "train"), key=places.__getitem__)
            if len(train) > 1:
                splits[train[-1]] = wanted
    if "train" not in splits.values():
        splits[min(names, key=places.__getitem__)] = "train"
    if len(names) > 1 and "validation" not in splits.values():  # two cases, or few that the hash put into test
        rest = [name for name in names if splits[name] == "test"]
        if rest:
            splits[min(rest, key=places.__getitem__)] = "validation"
    return splits


def _given(cases: Sequence[Case], seed: int) -> dict[str, str]:
    """The data's own splits; what they do not place is for training, of which a part validates where none does."""
    splits = {case.name: case.split or "train" for case in cases}
    if "validation" not in splits.values():
        train = [case.name for case in cases if splits[case.name] == "train"]
        chosen = [name for name in train if place(name, seed) >= 1 - FRACTIONS["validation"]]
        chosen = chosen or sorted(train, key=lambda name: place(name, seed))[-1:] if len(train) > 1 else []
        splits |= dict.fromkeys(chosen, "validation")
    return splits
