from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path
from typing import Any

import pytest

from monai_ext.bench import plot
from monai_ext.bench.mixers import FAMILIES
from monai_ext.bench.report import busy, derive, exponents, fit_exponent, share_at, size, summary, to_csv, to_markdown

SIZES = (1024, 4096, 16384, 65536)


def record(mixer: str, tokens: int, **more: Any) -> dict[str, Any]:
    known = {"name": mixer, "options": {}, "family": FAMILIES[-1], "dims": 2, "grid": [tokens, 1], "reason": ""}
    return {"mixer": mixer, "tokens": tokens, "allocator": "default", "status": "measured", **known, **more}


def measured(mixer: str, tokens: int, seconds: float, memory: int, **more: Any) -> dict[str, Any]:
    time = {"median": seconds, "min": seconds, "max": 2 * seconds, "repeats": 3}
    return record(mixer, tokens, time=time, memory=memory, cold=False, memory_method="peak_rss", **more)


def synthetic() -> dict[str, Any]:
    """Softmax grows with the square of N, "flat" with its first power; softmax has no figure at 64k."""
    cases = [measured("softmax", n, 1e-8 * n**2, 1000 * n) for n in SIZES[:-1]]
    cases.append(record("softmax", SIZES[-1], status="skipped", reason="too long."))
    cases += [measured("flat", n, 1e-5 * n, 2000 * n) for n in SIZES]
    cases = derive(cases)
    settings = {"width": 192, "heads": 6, "batch": 1, "precision": "float32"}
    machine = {"gpu": None, "cpu": "CPU", "threads": 2, "cores": 4, "torch": "2.13", "date": "2026-01-02T03:04:05"}
    return {"cases": cases, "exponents": exponents(cases), "settings": settings, "machine": machine}


def test_exponents_of_powers() -> None:
    assert fit_exponent([(n, 3 * n**1.5) for n in SIZES]) == pytest.approx(1.5)
    # least squares: points at 0, 1, 2 with values 0, 0, 3 have the slope 1.5
    assert fit_exponent([(1, 1), (10, 1), (100, 1000)]) == pytest.approx(1.5)
    assert fit_exponent([(1024, 2.0)]) is None and fit_exponent([]) is None


def test_exponents_are_fitted_from_4k_on_over_what_was_measured() -> None:
    content = synthetic()
    content["cases"][0]["time"]["median"] = 99.0  # at 1k
    softmax, flat = exponents(content["cases"])
    assert softmax["mixer"] == "softmax" and softmax["tokens"] == [4096, 16384]
    assert softmax["time"] == pytest.approx(2) and softmax["memory"] == pytest.approx(1)
    assert flat["tokens"] == [4096, 16384, 65536] and flat["time"] == pytest.approx(1)


def test_shares() -> None:
    cases = [measured("softmax", 1024, 2.0, 100), measured("a", 1024, 1.0, 300)]
    cases.append(measured("b", 1024, 1.0, 300, share={"median": 0.25, "min": 0.2, "max": 0.3, "repeats": 3}))
    cases.append({**measured("c", 1024, 1.0, 300), "allocator": "retained"})
    softmax, apart, in_turn, alone = derive(cases)
    assert softmax["time_share"] == 1 and softmax["memory_share"] == 1
    assert (apart["time_share"], apart["share_from"], apart["memory_share"]) == (0.5, "apart", 3.0)
    assert (in_turn["time_share"], in_turn["share_from"]) == (0.25, "in turn")
    assert alone["time_share"] is None and alone["memory_share"] is None


def test_shares_are_shown_at_16k_or_below() -> None:
    cases = synthetic()["cases"]
    assert share_at(cases) == 16384
    assert share_at([case for case in cases if case["tokens"] < 16384]) == 4096
    assert share_at([case for case in cases if case["mixer"] == "flat"]) is None


def test_the_table_has_times_shares_exponents_and_what_is_missing() -> None:
    text = to_markdown(synthetic())
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.split("\n")
        if line.startswith("|")
    }
    assert lines["mixer"][:6] == ["1k", "4k", "16k", "64k", "time share at 16k", "exponent"]
    assert lines["flat"][:6] == ["10.2 ms", "41.0 ms", "164 ms", "655 ms", "0.0610†", "1.00"]
    assert lines["softmax"][3] == "–" and lines["softmax"][4:6] == ["1.00", "2.00"]
    assert lines["flat"][-2:] == ["2.00", "1.00"]
    assert "- softmax (2D 64k default): too long." in text
    assert "CPU, 2 of 4 cores; torch 2.13, 2026-01-02; width 192, 6 heads, batch 1, float32." in text


def test_csv_has_a_row_a_case() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(synthetic()["cases"]))))
    assert len(rows) == 8
    assert rows[0]["mixer"] == "softmax" and float(rows[0]["time_median"]) == pytest.approx(1e-8 * 1024**2)
    assert rows[3]["status"] == "skipped" and rows[3]["reason"] == "too long." and rows[3]["time_median"] == ""
    assert rows[-1]["grid"] == "65536x1" and rows[-1]["memory"] == str(2000 * 65536)
    assert to_csv([]) == "mixer\n"


def test_summary_and_warning() -> None:
    content = synthetic()
    assert summary(content).startswith("Measured 7 of 8 cases. At 16k tokens in 2D with the default allocator flat")
    assert not busy(content)
    content["cases"][0]["load"] = 9.0
    assert "load up to 9.0 on 4 cores" in busy(content) and busy(content) in to_markdown(content)


def test_sizes() -> None:
    assert [size(n) for n in (512, 1024, 65536)] == ["512", "1k", "64k"]


def test_names_stand_apart_and_inside() -> None:
    gap = 0.1
    for wanted in ([0.5, 0.5, 0.5], [0.0, 0.01, 0.9], [0.95, 0.97, 1.0], [0.2, 0.25, 0.3, 0.9]):
        places = plot._apart(wanted, gap)
        assert all(b - a > gap - 1e-9 for a, b in itertools.pairwise(places))
        assert places[0] >= -1e-9 and places[-1] <= 1 + 1e-9
    assert plot._apart([0.5, 0.5, 0.5], gap) == pytest.approx([0.4, 0.5, 0.6])
    assert plot._apart([0.1, 0.8], gap) == pytest.approx([0.1, 0.8])


def test_curves_are_drawn_even_of_nothing_measured(tmp_path: Path) -> None:
    cases = synthetic()["cases"]
    plot.draw(cases, FAMILIES, "title", tmp_path / "full.png")
    plot.draw([case for case in cases if case["status"] != "measured"], FAMILIES, "title", tmp_path / "empty.png")
    full, empty = ((tmp_path / name).read_bytes() for name in ("full.png", "empty.png"))
    assert full.startswith(b"\x89PNG") and empty.startswith(b"\x89PNG") and len(full) > len(empty) > 1000
    assert (
        len(
            {
                (s["color"], s.get("linestyle"), s["marker"])
                for s in plot._styles([record(str(i), 8) for i in range(28)], FAMILIES).values()
            }
        )
        == 28
    )
