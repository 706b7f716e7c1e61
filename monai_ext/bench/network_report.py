"""What the measured networks say: ratios of ours to MONAI's, a table, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monai_ext.bench.report import SPREAD, Record, align, busy, mebibytes, number, place, seconds
from monai_ext.bench.results import Kind

# what tells a case from any other
KEY = ("name", "size", "part", "mode", "checkpoint", "compiled", "precision", "allocator")
# in the order in which they stand in tables
WORDS = ("label", "mode", "precision", "allocator")


def derive(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The records with what follows from comparing them.

    ``time_ratio`` and ``memory_ratio`` are ours over MONAI's; ``float32_time_ratio`` and ``float32_memory_ratio``, of
    a lower precision, ours over our own in float32. Times were taken in turn in one process, peaks in fresh ones.
    """
    records = list(records)
    in_float32 = {_without_precision(record): record for record in records if record["precision"] == "float32"}
    rows = []
    for record in records:
        lower = record["precision"] != "float32"
        own = in_float32.get(_without_precision(record), {}) if lower else {}
        further = {
            "time_ratio": (record.get("ratio") or {}).get("median"),
            "memory_ratio": _over(record.get("memory"), record.get("monai_memory")),
            "float32_time_ratio": (record.get("float32_ratio") or {}).get("median"),
            "float32_memory_ratio": _over(record.get("memory"), own.get("memory")),
        }
        rows.append({**record, **further})
    return rows


def to_csv(records: Iterable[Record]) -> str:
    """One row a case; times in seconds, memory in bytes."""
    rows = [_flat(record) for record in records]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["label"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(record: Record) -> dict[str, Any]:
    row = {key: record[key] for key in ("label", "network", "dims", "tokens", *KEY, "status", "reason")}
    row |= {key: record.get(key) for key in ("monai_reason", "note", "parameters")}
    for key in ("time", "monai_time", "ratio", "float32_time", "float32_ratio"):
        row |= {f"{key}_{part}": (record.get(key) or {}).get(part) for part in SPREAD}
    row |= {key: record.get(key) for key in ("cold", "load", "memory", "monai_memory", "memory_method")}
    row |= {key: record.get(key) for key in ("time_ratio", "memory_ratio", "float32_time_ratio")}
    row["float32_memory_ratio"] = record.get("float32_memory_ratio")
    return row | {f"check_{key}": (record.get("check") or {}).get(key) for key in ("output", "gradient")}


def to_markdown(content: Mapping[str, Any]) -> str:
    """A table, and what was not measured and why."""
    records = content["cases"]
    parts = ["# Networks: ours and MONAI's", " ".join(filter(None, [describe(content), busy(content)]))]
    parts.append(_table([record for record in records if record["status"] == "measured"]))
    parts.append(
        "train: forward, a loss and backward; inference: without gradients; encoder: the same of a Swin UNETR's "
        "encoder alone. Medians of passes in turn in one process; memory is the peak above what was held before, each "
        "in a process of its own. Ratios are ours over MONAI's; the last two columns ours over our own in float32. "
        "Both have the same weights, and outputs and gradients agreed (to 1e-4) before they were timed, unless a note "
        "says otherwise. A star: a single cold pass, since there was no time for another."
    )
    parts += _list("Notes", [(record["label"], record["note"]) for record in records if record.get("note")])
    parts += _list("MONAI's not measured", [(_name(r), r["monai_reason"]) for r in records if r.get("monai_reason")])
    refused = [(_name(record), record["reason"]) for record in records if record["status"] == "refused"]
    parts += _list("Refused, since ours and MONAI's do not agree", refused)
    others = [r for r in records if r["status"] not in ("measured", "refused")]
    parts += _list("Not measured", [(_name(record), record["reason"]) for record in others])
    return "\n\n".join(parts) + "\n"


def describe(content: Mapping[str, Any]) -> str:
    """The machine and the settings on a line."""
    return f"{place(content)}; batch {content['settings']['batch']}."


def summary(content: Mapping[str, Any]) -> str:
    """One or two sentences."""
    records = content["cases"]
    counts = {status: sum(r["status"] == status for r in records) for status in ("measured", "refused")}
    text = f"Measured {counts['measured']} of {len(records)} cases."
    if counts["refused"]:
        text += f" Refused {counts['refused']}, since ours and MONAI's do not agree."
    for what, key in (("time", "time_ratio"), ("memory", "memory_ratio")):
        ratios = sorted(record[key] for record in records if record.get(key))
        if ratios:
            text += f" Ours takes {number(ratios[0])} to {number(ratios[-1])} times MONAI's {what}."
    return text


def _table(records: Sequence[Record]) -> str:
    head = ["case", "mode", "precision", "allocator", "time ours", "time MONAI", "ratio"]
    head += ["MiB ours", "MiB MONAI", "ratio", "time / float32", "MiB / float32"]
    rows = [
        [
            *(str(record[key]) for key in WORDS),
            seconds(record),
            seconds(record, "monai_time"),
            number(record["time_ratio"]),
            mebibytes(record),
            mebibytes(record, "monai_memory"),
            number(record["memory_ratio"]),
            number(record["float32_time_ratio"]),
            number(record["float32_memory_ratio"]),
        ]
        for record in records
    ]
    return align(head, rows, words=len(WORDS))


def _list(title: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Those who share a sentence on one line."""
    who: dict[str, list[str]] = {}
    for name, sentence in pairs:
        who.setdefault(sentence, []).append(name)
    lines = [f"- {'; '.join(dict.fromkeys(names))}: {sentence}" for sentence, names in who.items()]
    return [f"{title}:\n\n" + "\n".join(lines)] if lines else []


def _name(record: Record) -> str:
    return ", ".join(str(record[key]) for key in WORDS)


def _over(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _key(record: Record) -> tuple[Any, ...]:
    return tuple(record[key] for key in KEY)


def _without_precision(record: Record) -> tuple[Any, ...]:
    return tuple(record[key] for key in KEY if key != "precision")


RESULTS = Kind(
    "networks",
    same=("batch", "device", "threads"),
    key=_key,
    order=lambda record: (),  # as they came
    derive=derive,
)
