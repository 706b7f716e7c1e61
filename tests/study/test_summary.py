from __future__ import annotations

from typing import Any

import pytest

from monai_ext.study.statistics import paired
from monai_ext.study.summary import MEMORY, TIME, machine_of, summarize
from tests.study.made_up import MACHINE, content, crossed, trial

PATCHES = {16: 256, 8: 1024, 4: 4096}


def law(mixer: str, context: int, seed: int) -> tuple[float, float, float]:
    """Softmax: time as the square, memory as the square; linear: time and memory as the first power, a little worse."""
    value = 0.7 + 0.02 * (context // 1024) + 0.001 * seed - (0.005 + 0.0001 * seed if mixer == "linear" else 0)
    if mixer == "softmax":
        return value, 1e-6 * context**2, 10.0 * context**2
    return value, 1e-3 * context, 5000.0 * context


def test_groups_differ_by_the_seed_only() -> None:
    trials = crossed(["softmax", "linear"], PATCHES, (0, 1, 2), law)
    trials[1] = {**trials[1], "state": "failed", "value": None, "reason": "NaN."}
    summary = summarize(content(trials))
    assert summary.lines == ("softmax", "linear") and summary.contexts == (256, 1024, 4096)
    assert len(summary.groups) == 6 and dict(summary.states) == {"complete": 17, "failed": 1}
    group = summary.at("softmax", 256)
    assert group is not None and group.axes == {"mixer": "softmax", "patch_size": 16}
    # seeds 0 and 2: 0.7 and 0.702
    assert group.values == {0: 0.7, 2: 0.702} and group.count("failed") == 1
    assert (group.value.n, group.value.mean, group.value.sd) == (2, pytest.approx(0.701), pytest.approx(0.002 / 2**0.5))


def test_costs_are_medians_over_seeds_of_what_was_measured() -> None:
    trials = crossed(["softmax"], {8: 1024}, (0, 1, 2), lambda m, c, s: (0.7, (1.0, 5.0, 2.0)[s], (10.0, 30.0, 0.0)[s]))
    group = summarize(content(trials)).groups[0]
    assert group.costs == {TIME: 2.0, MEMORY: 20.0}
    # a trial that diverged was timed nevertheless; one without figures has none
    trials[0] |= {"state": "failed", "value": None}
    trials[1]["measured"] = None
    assert summarize(content(trials)).groups[0].costs == {TIME: 1.5, MEMORY: 10.0}


def test_pairs_with_the_baseline_are_those_of_the_same_seed() -> None:
    trials = crossed(["softmax", "linear"], PATCHES, (0, 1, 2, 3), law)
    trials[0] |= {"state": "failed", "value": None}
    summary = summarize(content(trials))
    found = {(c.line, c.context): c for c in summary.comparisons}
    assert list(found) == [("linear", 256), ("linear", 1024), ("linear", 4096)]
    expected = paired([-0.0051, -0.0052, -0.0053])
    pairs = found["linear", 256].pairs
    assert (
        pairs.n == 3 and pairs.mean == pytest.approx(expected.mean) and pairs.p == pytest.approx(expected.p, rel=1e-3)
    )
    assert found["linear", 1024].pairs.n == 4
    assert found["linear", 256].p_holm == pytest.approx(pairs.p)  # the greatest of three


def test_growth_line_by_line_and_pooled() -> None:
    trials = crossed(["softmax", "linear"], PATCHES, (0, 1, 2), law)
    trials[-1] |= {"state": "failed", "value": None}  # linear, longest context, seed 2
    summary = summarize(content(trials))
    softmax, linear = summary.growth
    assert (softmax.short, softmax.long, softmax.pairs.n, linear.pairs.n) == (256, 4096, 3, 2)
    assert softmax.pairs.mean == pytest.approx(0.08)
    assert summary.pooled.n == 5 and summary.pooled.mean == pytest.approx(0.08)


def test_growth_ends_at_the_longest_context_with_a_value() -> None:
    trials = crossed(["softmax"], PATCHES, (0,), lambda m, c, s: (None if c == 4096 else 0.1, None, None))
    (growth,) = summarize(content(trials)).growth
    assert growth.long == 1024


def test_crossing_points_and_exponents() -> None:
    summary = summarize(content(crossed(["softmax", "linear"], PATCHES, (0,), law)))
    # 1e-3 n = 1e-6 n**2 at 1000; 5000 n = 10 n**2 at 500
    assert summary.crossings["linear", TIME].place == pytest.approx(1000)
    assert summary.crossings["linear", MEMORY].place == pytest.approx(500)
    assert set(summary.crossings) == {("linear", TIME), ("linear", MEMORY)}
    assert summary.slopes["softmax", TIME] == pytest.approx(2) and summary.slopes["linear", MEMORY] == pytest.approx(1)
    assert summary.slopes["linear", "inference_seconds"] is None


def test_headline_at_the_same_context_and_against_the_best() -> None:
    summary = summarize(content(crossed(["softmax", "linear"], PATCHES, (0,), law)))
    rows = {row.context: row for row in summary.headline}
    assert set(rows) == {256, 1024, 4096}
    # ratios baseline / line: n / 1000 in time, n / 500 in memory
    assert rows[4096].time_ratio == pytest.approx(4.096) and rows[4096].memory_ratio == pytest.approx(8.192)
    assert rows[4096].equal and rows[4096].reaches_time and rows[4096].reaches_memory
    assert rows[1024].reaches_time is False and rows[1024].reaches_memory is False
    best = {row.context: row for row in summary.best_headline}
    assert {row.baseline_context for row in best.values()} == {4096}
    assert best[1024].time_ratio == pytest.approx(1e-6 * 4096**2 / 1.024) and best[1024].equal is False


@pytest.mark.parametrize(
    ("maximize", "difference", "equal"),
    [
        (True, -0.01, True),
        (True, -0.0101, False),
        (False, 0.01, True),
        (False, 0.0101, False),
        (True, 0.3, True),
        (False, -0.3, True),
    ],
)
def test_equal_is_no_worse_than_the_tolerance(maximize: bool, difference: float, equal: bool) -> None:
    trials = crossed(
        ["softmax", "linear"], {8: 1024}, (0,), lambda m, c, s: (0.7 + difference * (m == "linear"), 1.0, 1.0)
    )
    (row,) = summarize(content(trials, maximize=maximize)).headline
    assert row.equal is equal and row.difference == pytest.approx(difference)


def test_fronts_of_a_metric_that_rises_and_one_that_falls() -> None:
    trials = crossed(["softmax", "linear"], PATCHES, (0,), law)
    for maximize, places in (
        (True, [(256, "softmax"), (1024, "linear"), (1024, "softmax"), (4096, "linear"), (4096, "softmax")]),
        (False, [(256, "softmax"), (256, "linear")]),
    ):
        summary = summarize(content(trials, maximize=maximize))
        assert [(g.context, g.line) for g in summary.fronts[TIME]] == places


def test_further_axes_make_lines_of_their_own() -> None:
    trials = [
        trial({"mixer": mixer, "width": width, "depth": depth, "patch_size": patch, "seed": 0}, context, 0.7)
        for mixer in ("softmax", "linear")
        for width in ("small", "large")
        for depth in (2,)
        for patch, context in PATCHES.items()
    ]
    summary = summarize(content(trials, axes=["mixer", "width", "depth", "patch_size", "seed"]))
    assert summary.lines == ("softmax, small", "softmax, large", "linear, small", "linear, large")
    assert summary.baselines["linear, large"] == "softmax, large"
    assert summary.baselines["softmax, small"] == "softmax, small"
    assert {(c.line, c.baseline) for c in summary.comparisons} == {
        ("linear, small", "softmax, small"),
        ("linear, large", "softmax, large"),
    }


def lines_of(axes: dict[str, Any], contexts: Any, **more: Any) -> dict[str, list[int]]:
    """Lines and their contexts of a study over the crossed axes, the first of two."""
    (one, values), (other, others) = axes.items()
    trials = [trial({one: a, other: b}, contexts(a, b), 0.5) for a in values for b in others]
    summary = summarize(content(trials, axes=list(axes), seed_axis=None, **more))
    return {line: [group.context for group in summary.of(line)] for line in summary.lines}


def test_numbers_go_with_the_name_of_their_axis() -> None:
    found = lines_of({"feature_size": [12, 24], "patch_size": [8, 4]}, lambda f, p: 64 // p, mixer_axis=None)
    assert found == {"feature_size 12": [8, 16], "feature_size 24": [8, 16]}


def test_of_two_axes_that_change_the_context_one_makes_lines_where_they_meet() -> None:
    found = lines_of({"image": [256, 512], "patch_size": [16, 8, 4]}, lambda i, p: (i // p) ** 2, mixer_axis=None)
    assert found == {"image 256": [256, 1024, 4096], "image 512": [1024, 4096, 16384]}
    # where the context tells them apart, both run along the line
    found = lines_of({"image": [256, 512], "patch_size": [16]}, lambda i, p: (i // p) ** 2, mixer_axis=None)
    assert found == {"retinal_vessel_segmentation": [256, 1024]}


def test_a_line_with_one_context_from_several_settings_falls_apart() -> None:
    def context(network: str, patch: int) -> int:
        return 49 if network == "swin" else (64 // patch) ** 2

    found = lines_of({"network": ["vit", "swin"], "patch_size": [8, 4]}, context, mixer_axis=None)
    assert found == {"vit": [64, 256], "swin, patch_size 8": [49], "swin, patch_size 4": [49]}


def test_without_a_baseline_nothing_is_compared() -> None:
    summary = summarize(content(crossed(["linear", "mamba"], PATCHES, (0, 1), law)))
    assert not summary.baselines and not summary.comparisons and not summary.headline and not summary.crossings


def test_times_are_those_of_one_machine() -> None:
    trials = crossed(["softmax"], {8: 1024}, (0, 1, 2), lambda m, c, s: (0.7, float(s + 1), 100.0))
    trials[2]["machine"] = {**MACHINE, "cpu": "another"}
    summary = summarize(content(trials))
    assert summary.groups[0].costs[TIME] == 1.5 and summary.groups[0].value.n == 3
    assert summary.machine == machine_of(trials[0]) and sorted(summary.machines.values()) == [1, 2]
    # the date and the version tell no machines apart
    trials[2]["machine"] = {**MACHINE, "date": "2027-01-01", "monai_ext": "9"}
    assert summarize(content(trials)).groups[0].costs[TIME] == 2.0


def test_times_without_a_machine_count() -> None:
    trials = crossed(["softmax"], {8: 1024}, (0,), lambda m, c, s: (0.7, 2.0, 100.0))
    trials[0]["machine"] = None
    assert summarize(content(trials)).groups[0].costs[TIME] == 2.0


def test_nothing_at_all() -> None:
    summary = summarize(content([]))
    assert not summary.groups and not summary.lines and summary.pooled.n == 0 and summary.machine is None
