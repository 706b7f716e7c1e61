"""What the measured cases say: shares of softmax, exponents, a table, CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monai_ext.bench.results import Kind

Record = Mapping[str, Any]
Group = tuple[int, str]  # spatial dimensions, allocator

BASE = "softmax"
# exponents are fitted between these, shares are shown at the last
FIT_FROM, FIT_TO = 4096, 65536
SHARE_AT = 16384
SPREAD = ("median", "min", "max", "repeats")


def derive(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The records with what follows from comparing them with softmax's at the same size and allocator.

    ``time_share`` comes from passes in turn in one process where there were any (``share_from`` "in turn"), else from
    the medians of two processes ("apart"); ``memory_share`` compares the peaks.
    """
    records = list(records)
    bases = {_place(record): record for record in records if record["mixer"] == BASE}
    rows = []
    for record in records:
        base = bases.get(_place(record), {})
        time, memory, source = None, None, ""
        if record.get("share"):
            time, source = record["share"]["median"], "in turn"
        elif record.get("time") and base.get("time"):
            time, source = record["time"]["median"] / base["time"]["median"], "apart"
        if record.get("memory") is not None and base.get("memory"):
            memory = record["memory"] / base["memory"]
        rows.append({**record, "time_share": time, "share_from": source, "memory_share": memory})
    return rows


def fit_exponent(points: Iterable[tuple[float, float]]) -> float | None:
    """The e of ``value = c * tokens**e``, by least squares in log-log; None for fewer than two sizes."""
    logs = [(math.log(tokens), math.log(value)) for tokens, value in points if value > 0]
    if len({x for x, _ in logs}) < 2:
        return None
    mean_x, mean_y = (sum(column) / len(logs) for column in zip(*logs))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def exponents(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Growth of time and memory between `FIT_FROM` and `FIT_TO` tokens, for every mixer in every group."""
    curves: dict[tuple[str, Group], list[Record]] = {}
    for record in records:
        if FIT_FROM <= record["tokens"] <= FIT_TO:
            curves.setdefault((record["mixer"], _group(record)), []).append(record)
    return [
        {
            "mixer": mixer,
            "dims": dims,
            "allocator": allocator,
            "tokens": sorted(record["tokens"] for record in curve if record.get("time")),
            "time": fit_exponent((r["tokens"], r["time"]["median"]) for r in curve if r.get("time")),
            "memory": fit_exponent((r["tokens"], r["memory"]) for r in curve if r.get("memory")),
        }
        for (mixer, (dims, allocator)), curve in curves.items()
    ]


def groups(records: Iterable[Record]) -> list[Group]:
    """What goes into one table and one figure: a number of dimensions and an allocator."""
    return sorted({_group(record) for record in records})


def share_at(records: Iterable[Record]) -> int | None:
    """The number of tokens at which shares are shown: 16k, else the greatest with softmax measured, 16k at most."""
    known = [r["tokens"] for r in records if r["mixer"] == BASE and r.get("time") and r["tokens"] <= SHARE_AT]
    return max(known, default=None)


# --- CSV


def to_csv(records: Iterable[Record]) -> str:
    """One row a case; times in seconds, memory in bytes."""
    rows = [_flat(record) for record in records]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["mixer"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {key: record[key] for key in ("mixer", "name")}
    row["options"] = json.dumps(record["options"], sort_keys=True)
    row |= {key: record[key] for key in ("family", "dims", "tokens")}
    row["grid"] = "x".join(map(str, record["grid"]))
    row |= {key: record[key] for key in ("allocator", "status", "reason")}
    row["parameters"] = record.get("parameters")
    for column, key in (("time", "time"), ("softmax_time", "base_time"), ("share_in_turn", "share")):
        row |= {f"{column}_{part}": (record.get(key) or {}).get(part) for part in SPREAD}
    row |= {"cold": record.get("cold"), "load": record.get("load")}
    row |= {key: record.get(key) for key in ("time_share", "share_from", "memory", "memory_method", "memory_share")}
    return row


# --- the table


def to_markdown(content: Mapping[str, Any]) -> str:
    """Tables, one for each number of dimensions and allocator, and what was not measured and why."""
    records = content["cases"]
    parts = ["# Mixers: time and memory", " ".join(filter(None, [describe(content), busy(content)]))]
    for dims, allocator in groups(records):
        inside = [record for record in records if _group(record) == (dims, allocator)]
        parts += [f"## {dims}D, {allocator} allocator", _table(inside, content["exponents"], (dims, allocator))]
    parts.append(
        "Forward and backward, median of the repeats; memory is the peak above what was held before. Shares are of "
        f"fused softmax attention. Exponents are fitted between {size(FIT_FROM)} and {size(FIT_TO)} tokens. A star: "
        "a single cold pass, since there was no time for another; a dagger: softmax ran in a process of its own."
    )
    missing = _missing(records)
    return "\n\n".join(parts + ([f"Not measured:\n\n{missing}"] if missing else [])) + "\n"


def describe(content: Mapping[str, Any]) -> str:
    """The machine and the settings on a line."""
    s = content["settings"]
    return f"{place(content)}; width {s['width']}, {s['heads']} heads, batch {s['batch']}, {s['precision']}."


def place(content: Mapping[str, Any]) -> str:
    """The machine and the date."""
    m = content["machine"]
    where = m["gpu"] or f"{m['cpu']}, {m['threads']} of {m['cores']} cores"
    return f"{where}; torch {m['torch']}, {m['date'][:10]}"


def busy(content: Mapping[str, Any]) -> str:
    """A warning where other programs ran beside the measuring."""
    highest = max((record.get("load") or 0 for record in content["cases"]), default=0)
    threads, cores = content["machine"]["threads"], content["machine"]["cores"]
    if highest <= threads + 1:
        return ""
    return f"The machine was busy (load up to {highest:.1f} on {cores} cores): times are noisy."


def summary(content: Mapping[str, Any]) -> str:
    """One or two sentences."""
    records = content["cases"]
    measured = sum(record["status"] == "measured" for record in records)
    text = f"Measured {measured} of {len(records)} cases."
    tokens = share_at(records)
    for dims, allocator in groups(records)[:1]:
        rows = [r for r in records if _group(r) == (dims, allocator) and r["tokens"] == tokens and r["mixer"] != BASE]
        fast = min((r for r in rows if r["time_share"]), key=lambda r: r["time_share"], default=None)
        lean = min((r for r in rows if r["memory_share"]), key=lambda r: r["memory_share"], default=None)
        if tokens and fast and lean:
            text += (
                f" At {size(tokens)} tokens in {dims}D with the {allocator} allocator {fast['mixer']} is fastest, with "
                f"{number(fast['time_share'])} of softmax's time, and {lean['mixer']} takes least memory, "
                f"{number(lean['memory_share'])} of softmax's."
            )
    return text


def size(tokens: int) -> str:
    """16384 as 16k."""
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


def _table(records: Sequence[Record], fits: Iterable[Record], group: Group) -> str:
    tokens = sorted({record["tokens"] for record in records})
    at = share_at(records)
    cells = {(record["mixer"], record["tokens"]): record for record in records}
    fitted = {fit["mixer"]: fit for fit in fits if (fit["dims"], fit["allocator"]) == group}
    share = f" at {size(at)}" if at else ""
    head = ["mixer", *(f"{size(n)}" for n in tokens), f"time share{share}", "exponent"]
    head += [*(f"MiB {size(n)}" for n in tokens), f"memory share{share}", "exponent"]
    rows = []
    for mixer in dict.fromkeys(record["mixer"] for record in records):
        of = [cells.get((mixer, n), {}) for n in tokens]
        shown, fit = cells.get((mixer, at), {}) if at else {}, fitted.get(mixer, {})
        apart = "†" if shown.get("share_from") == "apart" and mixer != BASE else ""
        row = [mixer, *map(seconds, of), number(shown.get("time_share")) + apart, number(fit.get("time"), ".2f")]
        row += [*(mebibytes(r) for r in of), number(shown.get("memory_share")), number(fit.get("memory"), ".2f")]
        rows.append(row)
    return align(head, rows)


def align(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table whose columns line up in the text, too: the first `words` to the left, the others right."""
    table = [head, *rows]
    widths = [max(3, *(len(row[i]) for row in table)) for i in range(len(head))]
    lines = [[c.ljust(w) if i < words else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))] for row in table]
    lines.insert(1, ["-" * w if i < words else "-" * (w - 1) + ":" for i, w in enumerate(widths)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _missing(records: Iterable[Record]) -> str:
    reasons: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if record["status"] != "measured":
            where = f"{record['dims']}D {size(record['tokens'])} {record['allocator']}"
            reasons.setdefault((record["mixer"], record["reason"]), []).append(where)
    return "\n".join(f"- {mixer} ({', '.join(where)}): {reason}" for (mixer, reason), where in reasons.items())


def seconds(record: Record, key: str = "time") -> str:
    """The median with its unit, a star where it is that of a single cold pass."""
    if not record.get(key):
        return "–"
    value = record[key]["median"]
    text = f"{number(1000 * value)} ms" if value < 1 else f"{number(value)} s"
    return text + ("*" if record.get("cold") else "")


def mebibytes(record: Record, key: str = "memory") -> str:
    return "–" if record.get(key) is None else number(record[key] / 2**20)


def number(value: float | None, style: str | None = None) -> str:
    """Two to three digits that count, never in powers of ten."""
    if value is None:
        return "–"
    if style:
        return format(value, style)
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{min(digits, 5)}f}"


def _group(record: Record) -> Group:
    return record["dims"], record["allocator"]


def _order(record: Record) -> tuple[int, int, str]:
    return record["tokens"], record["dims"], record["allocator"]


def _place(record: Record) -> tuple[int, int, str]:
    return record["dims"], record["tokens"], record["allocator"]


RESULTS = Kind(
    "mixers",
    same=("width", "heads", "batch", "device", "precision", "threads"),
    key=lambda record: (*_order(record), record["mixer"]),
    order=_order,
    derive=derive,
    further=lambda records: {"exponents": exponents(records)},
)
