"""The report of a study: Markdown, CSV and PNG from the stored records, without training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai_ext.files import atomic_write
from monai_ext.study import tables
from monai_ext.study.csvs import groups_csv, trials_csv
from monai_ext.study.plots import PICTURES, draw_all
from monai_ext.study.sentences import cautions, metric_of, name_machine, sentences
from monai_ext.study.stored import STATES, check_results, clean, read_results
from monai_ext.study.summary import MEMORY, MEMORY_HEADLINE, TIME, TIME_HEADLINE, Summary, machine_of, summarize
from monai_ext.study.words import Metric, count, listed

__all__ = ["gist", "read_results", "to_markdown", "write_report"]

RESULTS, REPORT, TRIALS, GROUPS = "results.json", "report.md", "trials.csv", "groups.csv"
GIST = 2
CAPTIONS = {
    "accuracy.png": "accuracy against context length",
    "cost.png": "time and memory against context length",
    "pareto.png": "accuracy against cost, with the Pareto front",
    "learning.png": "training loss and accuracy against epochs",
}
AGAIN = "python -m monai_ext study report"


def write_report(content: Mapping[str, Any], folder: str | Path, command: str = AGAIN) -> list[Path]:
    """Writes the report of a study; the same records give the same files.

    Args:
        content: the records (form: `monai_ext.study.stored.SCHEMA`); NaN and infinity are stored as null.
        folder: made where it is missing. A picture for which the records have nothing any more is removed.
        command: what makes the report again, as the report says it.

    Returns:
        `results.json`, `trials.csv`, `groups.csv`, the pictures and, last, `report.md`, in `folder`.

    Raises:
        ValueError: `content` is no records of a study; names the place and the bad value.
        OSError: the folder cannot be written to.
    """
    folder, content = Path(folder), clean(content)
    check_results(content)
    summary = summarize(content)
    written = [_write(folder / RESULTS, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")]
    written.append(_write(folder / TRIALS, trials_csv(content, summary)))
    written.append(_write(folder / GROUPS, groups_csv(summary)))
    pictures = draw_all(summary, folder)
    for name in PICTURES:
        if folder / name not in pictures:
            (folder / name).unlink(missing_ok=True)
    text = to_markdown(content, summary, [path.name for path in pictures], command)
    return [*written, *pictures, _write(folder / REPORT, text)]


def gist(content: Mapping[str, Any]) -> str:
    """One or two sentences on what the records show."""
    return " ".join(sentences(summarize(clean(content)))[:GIST])


def to_markdown(
    content: Mapping[str, Any], summary: Summary, pictures: Iterable[str] = (), command: str = AGAIN
) -> str:
    """The report's text; `pictures` are names of files beside it."""
    metric = metric_of(summary)
    found = sentences(summary)
    parts = [f"# {_line(content['study']['title'] or content['study']['name'])}", _done(content, summary)]
    parts += ["## What the numbers show", " ".join(found[:GIST])]
    if further := [*found[GIST:], *(f"Beware: {sentence}" for sentence in cautions(summary))]:
        parts.append("\n".join(f"- {sentence}" for sentence in further))
    parts += [f"![{CAPTIONS[name]}]({name})" for name in pictures]
    if summary.groups:
        parts += _tables(summary, metric)
    parts += _failed(content)
    parts += [
        "## Again",
        f"[{RESULTS}]({RESULTS}) holds all records, [{TRIALS}]({TRIALS}) a row for every trial and "
        f"[{GROUPS}]({GROUPS}) a row for every line and context. This makes the tables and figures again from "
        f"the stored results, without training:\n\n```\n{command}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _done(content: Mapping[str, Any], summary: Summary) -> str:
    """Bundle, metric, budget, axes, trials by state, machines and dates."""
    study, trials = content["study"], content["trials"]
    states = [f"{sum(t['state'] == state for t in trials)} {state}" for state in STATES]
    states = [text for text in states if not text.startswith("0 ")]
    better = "higher" if study["maximize"] else "lower"
    budget = listed([f"{value:g} {what}" for what, value in study["budget"].items()]) or "no limit"
    if summary.trained:
        rows = [f"- Bundle: `{study['bundle']}`; budget of a trial: {budget}."]
        rows.append(
            f"- Metric: `{study['metric']}` on the {study['split']} split ({better} is better); a difference of up to "
            f"{study['tolerance']:g} counts as equal accuracy. Baseline: {study['baseline'] or 'none'}."
        )
    else:
        rows = [f"- Bundle: `{study['bundle']}`; nothing is trained, time and memory are measured."]
        rows.append(f"- Baseline: {study['baseline'] or 'none'}.")
    rows.append(f"- Axes: {'; '.join(_axis(axis, trials) for axis in study['axes']) or 'none'}.")
    dropped = len(content.get("dropped") or [])
    also = f"; {count(dropped, 'setting')} dropped as impossible" if dropped else ""
    rows.append(f"- Trials: {len(trials)}{f' ({listed(states)})' if states else ''}{also}.")
    ran = dict.fromkeys(machine_of(t) for t in trials if t.get("machine"))
    if ran:
        rows.append(f"- {'Machine' if len(ran) == 1 else 'Machines'}: {'; '.join(map(name_machine, ran))}.")
    dates = sorted(str(t["machine"]["date"])[:10] for t in trials if (t.get("machine") or {}).get("date"))
    if dates:
        rows.append(f"- Dates: {dates[0] if dates[0] == dates[-1] else f'{dates[0]} to {dates[-1]}'}.")
    return "\n".join(rows)


def _axis(axis: str, trials: Iterable[Mapping[str, Any]]) -> str:
    values = dict.fromkeys(str(trial["axes"].get(axis)) for trial in trials)
    return f"{axis} ({', '.join(values)})" if values else axis


def _tables(summary: Summary, metric: Metric) -> list[str]:
    study, parts = summary.study, []
    if summary.trained:
        parts += ["## Accuracy", tables.accuracy(summary, metric)]
        parts.append(
            f"Columns are context lengths in tokens, cells the mean of {study['metric']} ± its standard deviation over "
            "seeds (number of trials), the best of a column in bold."
        )
    found = list(tables.costs_of(summary))
    if found:
        parts.append("## Time and memory")
        for title, text in found:
            parts += [f"{title}:", text]
        parts.append(
            "Medians over seeds; columns are context lengths. The exponent is that of a power of the context, fitted "
            "in log-log over all of them."
        )
    if not summary.trained:
        return parts + _shares(summary)
    if any(row.difference is not None or row.time_ratio or row.memory_ratio for row in summary.headline):
        parts += [
            "## The headline",
            f"{MEMORY_HEADLINE} times less memory and {TIME_HEADLINE} times faster training at equal accuracy. Ratios "
            "of a training step are baseline / line; they are reached or not whatever the accuracy. Equal: no more "
            f"than {study['tolerance']:g} worse. At the same context:",
            tables.headline(summary, summary.headline, metric),
        ]
        if summary.best_headline:
            text = tables.headline(summary, summary.best_headline, metric)
            parts += ["Against the baseline at the context at which it is best:", text]
    return parts + _tests(summary, metric)


def _shares(summary: Summary) -> list[str]:
    parts = []
    for cost, what in ((TIME, "time"), (MEMORY, "memory")):
        if cost in {name for group in summary.groups for name in group.costs} and summary.headline:
            parts += [f"How many times less {what} a training step takes than with the baseline:"]
            parts += [tables.ratios(summary, cost)]
    return ["## Beside the baseline", *parts] if parts else []


def _tests(summary: Summary, metric: Metric) -> list[str]:
    parts = []
    if summary.comparisons:
        text = "Lines against the baseline at the same context, in pairs of the same seed (line - baseline):"
        parts += [text, tables.comparisons(summary, metric)]
    if summary.growth:
        parts += ["The longest context against the shortest (long - short):", tables.growth(summary, metric)]
        if len(summary.growth) > 1 and max(growth.pairs.n for growth in summary.growth) > 1:
            parts.append(
                "Pairs over all lines are pairs of line and seed; those of one line or one seed are not wholly "
                "independent, so that this interval is rather too narrow."
            )
    if not parts:
        return []
    few = "Seeds are too few for a test where no interval stands: it takes three pairs, the signed-rank test six."
    return ["## Paired tests", *parts, few]


def _failed(content: Mapping[str, Any]) -> list[str]:
    parts = []
    failed = [trial for trial in content["trials"] if trial["state"] == "failed"]
    if failed:
        listing = _reasons((trial["axes"], trial.get("reason") or "No reason was stored.") for trial in failed)
        parts += ["## Failed trials", listing]
    if content.get("dropped"):
        parts += ["## Dropped", _reasons((entry["axes"], entry["reason"]) for entry in content["dropped"])]
    return parts


def _reasons(entries: Iterable[tuple[Mapping[str, Any], str]]) -> str:
    return "\n".join(
        f"- {_line(', '.join(f'{axis} {value}' for axis, value in axes.items()))}: {_line(reason)}"
        for axes, reason in entries
    )


def _line(text: str) -> str:
    """On one line, and no Markdown of its own."""
    text = " ".join(str(text).split())
    for sign in ("\\", "`", "*", "<", "["):
        text = text.replace(sign, f"\\{sign}")
    return text


def _write(path: Path, text: str) -> Path:
    with atomic_write(path) as file:
        file.write(text.encode())
    return path
