"""The results of a run on the disk: written after every case, so that a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ext.bench.child import MEASURED, SKIPPED
from monai_ext.files import atomic_write, remove_leftovers

Record = Mapping[str, Any]
# what must be the same for figures to stand in one table
SAME_MACHINE = ("device", "gpu", "cpu", "cores", "torch", "cuda")


@dataclass(frozen=True)
class Kind:
    """What the results of a benchmark are.

    Args:
        stem: of the files' names.
        same: the settings that must be the same for figures to stand in one table.
        key: what tells a case from any other.
        order: by which the records are sorted.
        derive: the records with what follows from comparing them with one another.
        further: further parts of the file, found from the records.
    """

    stem: str
    same: tuple[str, ...]
    key: Callable[[Record], tuple[Any, ...]]
    order: Callable[[Record], tuple[Any, ...]]
    derive: Callable[[Iterable[Record]], list[dict[str, Any]]]
    further: Callable[[Iterable[Record]], dict[str, Any]] = lambda records: {}


class Results:
    """The file `STEM.json` in a folder, and what is made from it.

    Args:
        folder: made where it is missing.
        kind: what the results are.
        settings, machine: stored beside the cases.
        resume: take over the cases that the file holds.

    Raises:
        ValueError: where the folder holds results and `resume` is not said, or they are no such results, or come from
            other settings or another machine.
        OSError: where the folder cannot be written to.
    """

    def __init__(
        self, folder: str | Path, kind: Kind, settings: Mapping[str, Any], machine: Mapping[str, Any], resume: bool
    ) -> None:
        self.kind, self.path = kind, Path(folder) / f"{kind.stem}.json"
        self.content: dict[str, Any] = {"machine": dict(machine), "settings": dict(settings), "cases": []}
        remove_leftovers(self.path)
        if self.path.exists():
            if not resume:
                raise ValueError(
                    f"{self.path} holds results already: go on with them with --resume, or choose another output_dir."
                )
            self.content["cases"] = self._earlier()
        self.save()

    def kept(self) -> list[dict[str, Any]]:
        """The records that need no repetition: measured, or too long for a limit that has not been raised since.

        What was skipped for something else than time is marked "again".
        """
        limit = self.content["settings"]["max_seconds"]
        return [
            record
            for record in self.content["cases"]
            if record["status"] == MEASURED
            or (record["status"] == SKIPPED and not record.get("again") and record["max_seconds"] >= limit)
        ]

    def add(self, record: Mapping[str, Any]) -> None:
        """Stores a record in place of an earlier one of the same case."""
        stored = {**record, "max_seconds": self.content["settings"]["max_seconds"]}
        by_case = {self.kind.key(case): case for case in self.content["cases"]} | {self.kind.key(stored): stored}
        self.content["cases"] = sorted(by_case.values(), key=self.kind.order)
        self.save()

    def save(self) -> None:
        self.content["cases"] = self.kind.derive(self.content["cases"])
        self.content |= self.kind.further(self.content["cases"])
        self.write(".json", json.dumps(self.content, indent=1) + "\n")

    def write(self, suffix: str, text: str) -> Path:
        """Writes a file of the same stem, whole or not at all."""
        path = self.path.with_suffix(suffix)
        with atomic_write(path) as file:
            file.write(text.encode())
        return path

    def _earlier(self) -> list[dict[str, Any]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            before = {part: content[part] for part in ("settings", "machine")}
            cases = content["cases"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is no file of results ({error}): choose another output_dir.") from error
        for part, names in (("settings", self.kind.same), ("machine", SAME_MACHINE)):
            for name in names:
                old, new = before[part].get(name), self.content[part][name]
                if old != new:
                    raise ValueError(
                        f"{self.path} was measured with {name} {old!r}, not {new!r}: give what it was measured with, "
                        "or choose another output_dir."
                    )
        return cases
