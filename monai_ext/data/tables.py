"""Classes that stand in tables (CSV): a case in one row or in several, with one class or with several at once."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ext.data.manifest import Manifest

__all__ = ["Verdict", "read_tables"]


@dataclass(frozen=True)
class Verdict:
    """What a table says of a case: its label, or else why it is passed over, or what is wrong with its rows."""

    table: Path
    label: int | list[int] | None = None
    passed_over: str = ""
    problem: str = ""


def read_tables(manifest: Manifest, folder: Path) -> dict[str, Verdict]:
    """What the manifest's tables say, by the name that they call a case.

    Raises:
        FileNotFoundError: a table is missing.
        ValueError: a table is no CSV in UTF-8, or lacks a column.
    """
    verdicts: dict[str, Verdict] = {}
    for table in manifest.tables:
        for name, verdict in _read_table(manifest, table, folder / table["file"]).items():
            earlier = verdicts.get(name)
            if earlier is not None:
                verdict = Verdict(verdict.table, problem=f"it stands in {earlier.table.name}, too")
            verdicts[name] = verdict
    return verdicts


def _read_table(manifest: Manifest, table: Mapping[str, Any], path: Path) -> dict[str, Verdict]:
    keep = table.get("keep", ())
    renamed = table.get("columns", {})
    classes = [renamed.get(name, name) for name in manifest.class_names] if manifest.multi_label else [table["label"]]
    columns = [table["case"], *classes, *(rule["column"] for rule in keep)]
    # a table of millions of rows says few different things
    cases: dict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for name, *cells in _cells(path, columns, table.get("names", 1), table.get("first")):
        if name:
            cases[name][tuple(cells)] += 1
    return {name: _judge(manifest, table, path, classes, rows) for name, rows in cases.items()}


def _cells(path: Path, columns: list[str], names: int, first: int | None) -> Iterator[list[str]]:
    """The named columns of every row of data, without blanks around them."""
    first = names + 1 if first is None else first
    index: list[int] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: as spreadsheets export it
            for number, row in enumerate(csv.reader(file), start=1):
                if number == names:
                    found = [cell.strip() for cell in row]
                    missing = [column for column in columns if column not in found]
                    if missing:
                        raise ValueError(
                            f"no column {missing[0]!r} in row {names}, which holds {', '.join(found[:40])}"
                        )
                    index = [found.index(column) for column in columns]
                elif number >= first and row:
                    yield [row[place].strip() if place < len(row) else "" for place in index]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is no table {path}: the classes of the cases stand in it.") from error
    except (csv.Error, ValueError) as error:  # not UTF-8 is a ValueError, too
        raise ValueError(f"The table {path} cannot be read ({error}); get the official one again.") from error
    if not index:
        raise ValueError(f"The table {path} has no row {names}, where the columns' names stand; get it again.")


def _judge(
    manifest: Manifest, table: Mapping[str, Any], path: Path, classes: list[str], rows: Counter[tuple[str, ...]]
) -> Verdict:
    """What the rows of one case mean together."""
    for place, rule in enumerate(table.get("keep", ()), start=len(classes)):
        if not all(re.fullmatch(rule["pattern"], row[place]) for row in rows):
            return Verdict(path, passed_over=rule["reason"])
    known = table.get("values") or _usual_values(manifest)
    labels = []
    for place, column in enumerate(classes):
        said: Counter[int] = Counter()
        for row, times in rows.items():
            label = next((label for pattern, label in known.items() if re.fullmatch(pattern, row[place])), None)
            if label is None:
                return Verdict(path, problem=f"{column} is {row[place][:40]!r}: known are {', '.join(known)}")
            said[label] += times
        label = _joined(said, table.get("rows", "agree"))
        if label is None:
            votes = ", ".join(f"{label} ({said[label]} times)" for label in sorted(said))
            return Verdict(path, problem=f"its rows do not agree on {column}: {votes}")
        labels.append(label)
    return Verdict(path, label=labels if manifest.multi_label else labels[0])


def _usual_values(manifest: Manifest) -> dict[str, int]:
    if manifest.multi_label:
        return {"0": 0, "1": 1}
    return {re.escape(str(value)): label for value, label in zip(manifest.values, manifest.labels)}


def _joined(said: Counter[int], rule: str) -> int | None:
    """One label of several rows'; None where the rule finds none."""
    if rule == "any":
        return max(said)
    (label, times), *others = said.most_common()
    if rule == "majority":
        return label if 2 * times > said.total() else None
    return None if others else label
