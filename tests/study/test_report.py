from __future__ import annotations

import copy
import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from monai_ext.study.csvs import groups_csv, trials_csv
from monai_ext.study.plots import PICTURES
from monai_ext.study.report import AGAIN, gist, read_results, to_markdown, write_report
from monai_ext.study.summary import summarize
from tests.study.made_up import MACHINE, content, crossed, trial

PATCHES = {8: 1024, 4: 4096}


def law(mixer: str, context: int, seed: int) -> tuple[float | None, float, float]:
    if (mixer, context, seed) == ("softmax", 4096, 1):
        return None, 1.0, 1.0
    return 0.8 + 0.01 * seed, 0.5, 2.0**20 * context


def full() -> dict[str, Any]:
    dropped = {"axes": {"mixer": "vim", "patch_size": 4, "seed": 0}, "reason": "vim | needs\na grid."}
    return content(crossed(("softmax", "linear"), PATCHES, (0, 1), law), [dropped])


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_all_files_and_their_links(tmp_path: Path) -> None:
    paths = write_report(full(), tmp_path / "new" / "folder", command="make it again")
    names = ["results.json", "trials.csv", "groups.csv", "accuracy.png", "cost.png", "pareto.png", "learning.png"]
    assert [path.name for path in paths] == [*names, "report.md"]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted([*names, "report.md"])
    text = paths[-1].read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert set(links) == set(names) and all((paths[-1].parent / link).is_file() for link in links)
    assert "```\nmake it again\n```" in text


def test_the_text_holds_what_was_done_and_what_failed(tmp_path: Path) -> None:
    text = write_report(full(), tmp_path)[-1].read_text(encoding="utf-8")
    assert text.startswith("# Retinal vessels: context against accuracy\n")
    assert "8 (7 complete and 1 failed); 1 setting dropped as impossible." in text
    assert "`val_mean_dice` on the validation split (higher is better)" in text and "10 epochs" in text
    assert "CPU, 2 of 4 cores (torch 2.13.0)" in text and "2026-01-02." in text
    assert "- mixer softmax, patch_size 4, seed 1: The trial ran out of memory." in text
    assert "- mixer vim, patch_size 4, seed 0: vim | needs a grid." in text
    assert re.search(r"\| softmax +\| +\*\*0\.805 ± 0\.007 \(2\)\*\* \| +0\.800 \(1\) \|", text)
    assert re.search(r"\| linear +\| +1024 \| +4096 \| +1\.00 \|", text)  # MiB, and their exponent


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    one = write_report(full(), tmp_path / "one")
    other = write_report(read_results(one[0]), tmp_path / "other")
    for a, b in zip(one, other):
        assert a.name == b.name and a.read_bytes() == b.read_bytes(), a.name


def test_the_gist_opens_the_report(tmp_path: Path) -> None:
    text = write_report(full(), tmp_path)[-1].read_text(encoding="utf-8")
    assert f"## What the numbers show\n\n{gist(full())}\n" in text and gist(full()).count("val_mean_dice") == 2


def test_inference_has_tables_where_it_was_measured(tmp_path: Path) -> None:
    records = full()
    assert "inference" not in write_report(records, tmp_path)[-1].read_text(encoding="utf-8")
    records["trials"][0]["measured"] |= {"inference_seconds": {"median": 0.25}, "inference_memory": 3 * 2**20}
    text = write_report(records, tmp_path)[-1].read_text(encoding="utf-8")
    assert re.search(r"Time of inference on one case:\n\n(.*\n){2}\| softmax +\| 250 ms \| +– \|", text)
    assert re.search(r"Memory of inference on one case, MiB:\n\n(.*\n){2}\| softmax +\| +3.00 \| +– \|", text)


def test_trials_as_csv(tmp_path: Path) -> None:
    write_report(full(), tmp_path)
    table = rows(tmp_path / "trials.csv")
    assert [row["state"] for row in table].count("complete") == 7 and len(table) == 9
    first, failed, dropped = table[0], table[3], table[-1]
    assert (first["mixer"], first["patch_size"], first["seed"], first["line"]) == ("softmax", "8", "0", "softmax")
    assert float(first["value"]) == 0.8 and float(first["step_seconds_median"]) == 0.5
    assert float(first["metric_loss"]) == pytest.approx(0.2) and first["machine_torch"] == "2.13.0"
    assert failed["state"] == "failed" and failed["reason"] == "The trial ran out of memory." and failed["value"] == ""
    assert dropped["state"] == "dropped" and dropped["reason"] == "vim | needs\na grid." and dropped["mixer"] == "vim"


def test_groups_as_csv(tmp_path: Path) -> None:
    write_report(full(), tmp_path)
    table = {(row["line"], int(row["context"])): row for row in rows(tmp_path / "groups.csv")}
    assert set(table) == {(line, context) for line in ("softmax", "linear") for context in PATCHES.values()}
    row = table["softmax", 4096]
    assert (row["trials"], row["failed"], row["n"], row["sd"]) == ("2", "1", "1", "")
    row = table["linear", 1024]
    assert float(row["mean"]) == pytest.approx(0.805) and float(row["step_memory"]) == 2**30
    assert (row["baseline"], row["pairs_n"], row["same_time_ratio"], row["same_equal"]) == (
        "softmax",
        "2",
        "1.0",
        "True",
    )
    assert row["same_reaches_time"] == "False"


def test_an_axis_named_as_a_column_keeps_its_own(tmp_path: Path) -> None:
    write_report(content([trial({"steps": 7}, 64, 0.5)], axes=["steps"], mixer_axis=None, seed_axis=None), tmp_path)
    (row,) = rows(tmp_path / "trials.csv")
    assert (row["axis_steps"], row["steps"]) == ("7", "100")


def test_no_number_that_json_does_not_know(tmp_path: Path) -> None:
    records = full()
    records["trials"][0] |= {"value": math.nan, "metrics": {"loss": math.inf}}
    paths = write_report(records, tmp_path)
    stored = json.loads(paths[0].read_text(encoding="utf-8"), parse_constant=lambda text: pytest.fail(text))
    assert stored["trials"][0]["value"] is None and stored["trials"][0]["metrics"] == {"loss": None}
    assert "nan" not in paths[-1].read_text(encoding="utf-8").lower()
    assert math.isnan(records["trials"][0]["value"])  # the caller's own are as they were


ODD: dict[str, dict[str, Any]] = {
    "nothing": content([]),
    "all failed": content(crossed(("softmax", "linear"), PATCHES, (0,), lambda m, c, s: (None, None, None))),
    "one trial": content(crossed(("softmax",), {8: 1024}, (0,), law)),
    "one context": content(crossed(("softmax", "linear"), {8: 1024}, (0, 1), law)),
    "one seed": content(crossed(("softmax", "linear"), PATCHES, (0,), law)),
    "nothing measured": content(crossed(("softmax", "linear"), PATCHES, (0,), lambda m, c, s: (0.5, None, None))),
    "no mixers": content(
        [trial({"p": p}, c, 0.5) for p, c in PATCHES.items()], axes=["p"], mixer_axis=None, seed_axis=None
    ),
    "baseline null": content(crossed(("mamba", "linear"), PATCHES, (0, 1), law), baseline=None),
    "no axes": content([trial({}, 64, 0.5, 1.0, 1e6)], axes=[], mixer_axis=None, seed_axis=None),
    "no baseline": content(crossed(("mamba", "linear"), PATCHES, (0, 1), law)),
    "many lines": content(crossed([f"mixer{i}" for i in range(13)], PATCHES, (0, 1, 2), law), baseline="mixer3"),
    "minimised": content(crossed(("softmax", "linear"), PATCHES, (0, 1, 2), law), maximize=False),
    "zero": content(crossed(("softmax", "linear"), PATCHES, (0, 1, 2), lambda m, c, s: (0.0, 1.0, 0.0))),
    "time alone": content(crossed(("softmax", "linear"), PATCHES, (0,), lambda m, c, s: (0.5, 1.0, None))),
}
for odd_trial in (waiting := copy.deepcopy(ODD["one seed"]))["trials"][1:]:
    for gone in ("value", "metrics", "history", "measured", "machine", "epochs", "steps", "train_seconds", "reason"):
        odd_trial.pop(gone)
    odd_trial["state"] = "waiting"
ODD["waiting, with no more than their plan"] = waiting


@pytest.mark.parametrize("name", ODD)
def test_odd_studies_have_a_report(name: str, tmp_path: Path) -> None:
    paths = write_report(ODD[name], tmp_path)
    text = paths[-1].read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all((tmp_path / link).is_file() for link in links) and len(links) == len(paths) - 1
    assert "None" not in text and "nan" not in text.lower() and "inf " not in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert len(rows(tmp_path / "trials.csv")) == len(ODD[name]["trials"])
    assert read_results(paths[0]) == ODD[name]


def test_pictures_of_an_earlier_report_do_not_stay(tmp_path: Path) -> None:
    write_report(ODD["one seed"], tmp_path)
    (tmp_path / "mine.png").write_bytes(b"")
    write_report(ODD["all failed"], tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == ["mine.png"]


def test_several_machines_are_said(tmp_path: Path) -> None:
    records = full()
    records["trials"][0]["machine"] = {**MACHINE, "gpu": "NVIDIA H100"}
    text = write_report(records, tmp_path)[-1].read_text(encoding="utf-8")
    assert (
        "Machines: NVIDIA H100 (torch 2.13.0); CPU" in text and "Beware: The trials were measured on 2 machines" in text
    )


def change(path: str, value: Any) -> dict[str, Any]:
    """The full records with one place changed, or removed where the value is ..."""
    records = full()
    *places, last = path.split(".")
    at: Any = records
    for place in places:
        at = at[int(place)] if isinstance(at, list) else at[place]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return records


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("schema", 2, "$.schema"),
        ("study.tolerance", -1, "$.study.tolerance"),
        ("study.metric", ..., "$.study"),
        ("study.mixer_axis", "mixers", "$.study.mixer_axis"),
        ("trials.1.state", "done", "$.trials[1].state"),
        ("trials.1.value", "0.8", "$.trials[1].value"),
        ("trials.1.context", None, "$.trials[1].context"),
        ("trials.1.axes.seed", ..., "$.trials[1].axes"),
        ("trials.1.measured.step_seconds", 0.1, "$.trials[1].measured.step_seconds"),
    ],
)
def test_wrong_records_are_refused_in_a_sentence(path: str, value: Any, place: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(change(path, value)))
    with pytest.raises(ValueError, match=re.escape(f"results.json are wrong at {place}: ")) as error:
        read_results(file)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    with pytest.raises(ValueError, match=re.escape(place)):
        write_report(change(path, value), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    with pytest.raises(FileNotFoundError, match="no results at"):
        read_results(file)
    for text, reason in (
        ("{", "is no JSON"),
        ('{"schema": NaN}', "NaN is no number"),
        ("[]", "is not of type 'object'"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=reason):
            read_results(file)


def test_the_documented_studies_are_made_again_from_their_results(repository: Path) -> None:
    folders = [path.parent for path in sorted((repository / "docs" / "study").glob("*/results.json"))]
    assert len(folders) >= 3
    for folder in folders:
        records = read_results(folder / "results.json")
        summary = summarize(records)
        text = (folder / "report.md").read_text(encoding="utf-8")
        pictures = [name for name in PICTURES if (folder / name).is_file()]
        where = f"docs/study/{folder.name}/results.json"
        assert text == to_markdown(records, summary, pictures, f"{AGAIN} --results {where}"), folder.name
        assert (folder / "trials.csv").read_text(encoding="utf-8") == trials_csv(records, summary)
        assert (folder / "groups.csv").read_text(encoding="utf-8") == groups_csv(summary)
