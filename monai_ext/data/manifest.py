"""Data manifests: what a data set is, where it comes from, how its files pair up, how it is split."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema

from monai_ext.data.hash_split import place, split_at
from monai_ext.data.rows import Row, prefix_of

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python >= 3.11

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Archive:
    """One file to download; `bytes` is None where the size is not known, `hashes` maps hash_type to hex digest."""

    name: str
    url: str
    bytes: int | None
    hashes: Mapping[str, str]
    unpack: str = "tar"


@dataclass(frozen=True)
class Manifest:
    """A validated manifest; `content` is the JSON itself, the rest is what the code reads often."""

    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.content["name"]

    @property
    def folder(self) -> str:
        return self.content["folder"]

    @property
    def cases(self) -> int:
        """Official number of labelled cases."""
        return self.content["cases"]

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes by number; none where the task has no classes."""
        return tuple(sorted(entry["label"] for entry in self.content.get("classes", [])))

    @property
    def values(self) -> tuple[int | str, ...]:
        """What the label files (or tables) hold for each of `labels`."""
        return tuple(entry.get("value", entry["label"]) for entry in self._classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of `labels`."""
        return tuple(entry["name"] for entry in self._classes)

    @property
    def _classes(self) -> list[dict[str, Any]]:
        return sorted(self.content.get("classes", []), key=lambda entry: entry["label"])

    @property
    def arrays(self) -> Mapping[str, Mapping[str, str]]:
        """Names of the arrays of images and of labels by split; empty where the images are files of their own."""
        return self.content["pairs"].get("arrays", {})

    @property
    def tables(self) -> tuple[Mapping[str, Any], ...]:
        """The CSV files that the classes stand in; none where the labels are files."""
        return tuple(self.content["pairs"].get("tables", ()))

    @property
    def multi_label(self) -> bool:
        """Whether several classes may hold at once, so that a label is a list of 0 and 1."""
        return self.content.get("multi_label", False)

    @property
    def clean(self) -> bool:
        """Whether the images are their own references."""
        return self.content["pairs"].get("clean", False)

    @property
    def slices(self) -> bool:
        """Whether every slice of an image is an item of its own."""
        return self.content["pairs"].get("slices", False)

    @property
    def unpaired(self) -> frozenset[str]:
        """Cases of which the official data set has only the image, or only the label."""
        return frozenset(self.content["pairs"].get("unpaired", ()))

    @property
    def archives(self) -> tuple[Archive, ...]:
        """May be empty where the data cannot be fetched by a program."""
        return tuple(
            Archive(
                entry["name"],
                entry["url"],
                entry.get("bytes"),
                {item["hash_type"]: item["hash"] for item in entry.get("hashes", [])},
                entry["unpack"],
            )
            for entry in self.content["files"]
        )

    @cached_property
    def listed(self) -> dict[str, str]:
        """The split of every case that the manifest lists by name, in the lists' order; empty where it lists none."""
        rule = self.content["split"]
        return {case: split for split in SPLITS for case in rule[split]} if rule["rule"] == "cases" else {}

    def split_of(self, case: str) -> str | None:
        """Train, validation or test, whichever other cases are present; None for a case that no list names.

        By the manifest's lists, by the arrays' own split, by the official test cases, or by a seeded hash of the
        name of the case, or of its group.
        """
        rule = self.content["split"]
        if rule["rule"] == "arrays":
            return self._array_splits.get(case.rpartition("_")[0])
        if rule["rule"] == "cases":
            return self.listed.get(case)
        u = place(self.group_of(case), rule["seed"])
        if rule["rule"] == "official":
            if re.fullmatch(rule["test"], case):
                return "test"
            return "validation" if u < rule["validation"] else "train"
        return split_at(u, rule["fractions"])

    @cached_property
    def _array_splits(self) -> dict[str, str]:
        return {prefix_of(entry.get("images_file", ""), entry["images"]): split for split, entry in self.arrays.items()}

    def label_array_of(self, row: Row) -> tuple[Path, str]:
        """The file and the name of the array with the labels of a row's array."""
        entry = self.arrays[self._array_splits[row.prefix]]
        return row.path.with_name(entry.get("labels_file", row.path.name)), entry["labels"]

    def case_of(self, path: Path) -> str | None:
        """The case that a file belongs to; None for a foreign file, such as the `._*` files of macOS archives."""
        pattern = self.content["pairs"]["case"]
        match = re.fullmatch(pattern, "/".join(path.parts[-1 - pattern.count("/") :]))
        return match.group(1) if match else None

    def group_of(self, case: str) -> str:
        """What the tables call a case, and what stays in one split: the case itself where it has no group."""
        pattern = self.content["pairs"].get("group")
        match = re.fullmatch(pattern, case) if pattern is not None else None
        return match.group(1) if match else case


def manifest_folder() -> Traversable:
    """`monai_ext.data_manifests` of an installed wheel, else `data_manifests/` at the top of a checkout."""
    try:
        return importlib.resources.files("monai_ext.data_manifests")
    except ModuleNotFoundError:
        folder = Path(__file__).parents[2] / "data_manifests"
    if not folder.is_dir():
        raise FileNotFoundError(f"The data manifests are missing: no package monai_ext.data_manifests and no {folder}.")
    return folder


def list_manifests() -> list[str]:
    """Names of the manifests that come with this package."""
    files = (entry.name for entry in manifest_folder().iterdir())
    return sorted(name[: -len(".json")] for name in files if name.endswith(".json") and name != "schema.json")


def load_manifest(name_or_path: str | Path) -> Manifest:
    """Reads and validates a manifest, by name or by the path of a JSON file of your own.

    Raises:
        ValueError: unknown name, broken JSON, or JSON that departs from schema.json (the field is named).
        FileNotFoundError: a path to a JSON file that does not exist.
    """
    folder = manifest_folder()
    if str(name_or_path).endswith(".json"):
        source: Traversable = Path(name_or_path).expanduser()
        if not source.is_file():
            raise FileNotFoundError(f"There is no manifest file {source}.")
    elif str(name_or_path) in list_manifests():
        source = folder / f"{name_or_path}.json"
    else:
        raise ValueError(
            f"Unknown data set {str(name_or_path)!r}: known are {', '.join(list_manifests())}, "
            "or the path of a manifest that ends in .json."
        )
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The manifest {source} is not JSON: {error}.") from error
    schema = json.loads((folder / "schema.json").read_text(encoding="utf-8"))
    problem = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(content))
    if problem is not None:
        raise ValueError(f"The manifest {source} is wrong at {problem.json_path}: {problem.message}.")
    _check_meaning(content, source)
    return Manifest(content)


def _check_meaning(content: dict[str, Any], source: Traversable) -> None:
    """What JSON Schema cannot say."""
    if source.name != f"{content['name']}.json":
        raise ValueError(f"The manifest {source} is wrong at $.name: {content['name']!r} is not its file's name.")
    split, arrays = content["split"], content["pairs"].get("arrays", {})
    if (split["rule"] == "arrays") != bool(arrays):
        message = "the rule arrays and pairs.arrays belong together"
        raise ValueError(f"The manifest {source} is wrong at $.split: {message}.")
    names = [prefix_of(entry.get("images_file", ""), entry["images"]) for entry in arrays.values()]
    if len(set(names)) < len(names):
        raise ValueError(f"The manifest {source} is wrong at $.pairs.arrays: one array is in two splits: {names}.")
    if split["rule"] == "hash":
        total = sum(split["fractions"].values())
        if abs(total - 1) > 1e-9:
            message = f"they add up to {total:g}, not to 1"
            raise ValueError(f"The manifest {source} is wrong at $.split.fractions: {message}.")
    elif split["rule"] == "official":
        _compiled(split["test"], "$.split.test", source)
    elif split["rule"] == "cases":
        listed = Counter(case for part in SPLITS for case in split[part])
        twice = [case for case, times in listed.items() if times > 1]
        if twice:
            raise ValueError(f"The manifest {source} is wrong at $.split: {twice[0]!r} stands in two splits.")
        if len(listed) > content["cases"]:
            message = f"the splits name {len(listed)} cases, more than the {content['cases']} official ones"
            raise ValueError(f"The manifest {source} is wrong at $.cases: {message}.")
    _check_labels(content, source)
    for field in ("case", "group"):
        if field not in content["pairs"]:
            continue
        groups = _compiled(content["pairs"][field], f"$.pairs.{field}", source).groups
        if groups != 1:
            raise ValueError(f"The manifest {source} is wrong at $.pairs.{field}: it needs one group, not {groups}.")


def _check_labels(content: dict[str, Any], source: Traversable) -> None:
    """Classes, where they come from, and whether the task is one for such labels."""

    def wrong(where: str, message: str) -> ValueError:
        return ValueError(f"The manifest {source} is wrong at $.{where}: {message}.")

    classes = content.get("classes", [])
    for field, entries in (
        ("label", [entry["label"] for entry in classes]),
        ("value", [entry.get("value", entry["label"]) for entry in classes]),
    ):
        if len(set(entries)) != len(entries):
            raise wrong("classes", f"a {field} stands twice in {entries}")
    pairs, many = content["pairs"], content.get("multi_label", False)
    if "tables" in pairs and content["task"] != "classification":
        raise wrong("pairs.tables", f"they hold classes of whole images, and the task is {content['task']}")
    if many and "tables" not in pairs:
        raise wrong("multi_label", "only pairs.tables can name several classes at once")
    if "clean" in pairs and content["task"] != "denoising":
        raise wrong("pairs.clean", f"a clean image is the reference of a denoising, and the task is {content['task']}")
    if "slices" in pairs and "clean" not in pairs:
        raise wrong("pairs.slices", "only images that are their own references (clean) are cut into slices")
    strange = set(map(int, pairs.get("masks", ()))) - {entry["label"] for entry in classes}
    if strange:
        raise wrong("pairs.masks", f"{min(strange)} is no class")
    labels = {0, 1} if many else {entry["label"] for entry in classes}
    for number, table in enumerate(pairs.get("tables", ())):
        where = f"pairs.tables[{number}]"
        if many == ("label" in table):
            raise wrong(where, "it needs `label`, the column of the class, or the manifest needs `multi_label`")
        strange = set(table.get("columns", {})) - ({entry["name"] for entry in classes} if many else set())
        if strange:
            raise wrong(f"{where}.columns", f"{sorted(strange)[0]!r} is no class of several at once")
        strange = set(table.get("values", {}).values()) - labels
        if strange:
            raise wrong(f"{where}.values", f"{min(strange)} is none of {sorted(labels)}")
        if table.get("first", 1 + table.get("names", 1)) <= table.get("names", 1):
            raise wrong(f"{where}.first", "the data come after the names")
        for pattern in table.get("values", {}):
            _compiled(pattern, f"$.{where}.values", source)
        for rule in table.get("keep", ()):
            _compiled(rule["pattern"], f"$.{where}.keep", source)


def _compiled(pattern: str, where: str, source: Traversable) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"The manifest {source} is wrong at {where}: {error}.") from error
