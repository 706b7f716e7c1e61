from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from monai_ext.study.sentences import cautions, sentences
from monai_ext.study.statistics import Spread
from monai_ext.study.summary import summarize
from monai_ext.study.words import Metric, count, listed, p_value, tokens
from tests.study.made_up import MACHINE, content, crossed

PATCHES = {8: 1024, 4: 4096}
Law = Callable[[str, int, int], tuple[float | None, float | None, float | None]]


def said(law: Law, mixers: Any = ("softmax", "linear"), patches: Any = PATCHES, seeds: Any = (0,), **more: Any) -> str:
    return " ".join(sentences(summarize(content(crossed(mixers, patches, seeds, law), **more))))


def flat(mixer: str, context: int, seed: int) -> tuple[float, float, float]:
    """Linear: equal accuracy, four times less of both at 4k, as much at 1k."""
    better = mixer == "linear" and context == 4096
    return 0.8 + 0.01 * (context == 4096), 1.0 / (4 if better else 1), 1e6 / (4 if better else 1)


def test_words() -> None:
    assert [listed(items) for items in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert listed(["a, x", "b", "c"]) == "a, x; b; and c"
    assert [count(n, "seed") for n in (0, 1, 2)] == ["no seed", "1 seed", "2 seeds"]
    assert [tokens(n) for n in (1, 49, 1024, 16384, 3177.0)] == [
        "1 token",
        "49 tokens",
        "1k tokens",
        "16k tokens",
        "3200 tokens",
    ]
    assert [p_value(p) for p in (None, 0.0001, 0.0123, 0.2)] == ["–", "< 0.001", "= 0.012", "= 0.20"]


def test_a_metric_is_written_with_the_decimals_that_its_size_asks_for() -> None:
    dice, psnr, error = Metric([0.8123, 0.7]), Metric([31.2, 28.0]), Metric([0.00042])
    assert (dice.value(0.8), psnr.value(31.234), error.value(0.00042)) == ("0.800", "31.23", "0.000420")
    assert (dice.difference(0.0123), dice.difference(-0.0123), dice.difference(-1e-9)) == (
        "+0.0123",
        "-0.0123",
        "0.0000",
    )
    assert dice.spread(Spread(2, 0.8, 0.01, 0.7, 0.9)) == "0.800 ± 0.010 (2)" and dice.spread(Spread(0)) == "–"
    assert Metric([]).value(None) == "–" and Metric([0.0]).value(0.0) == "0.000"


def test_the_first_two_sentences_are_context_and_headline() -> None:
    summary = summarize(content(crossed(("softmax", "linear"), PATCHES, (0,), flat)))
    context, headline = sentences(summary)[:2]
    assert context.startswith("From 1k tokens to 4k tokens, val_mean_dice rises by 0.0100 on average over 2 lines")
    assert "too few for a test: this cannot be told from chance" in context
    assert "3.2 times less memory and 2.8 times faster training than softmax" in headline
    assert (
        "is reached by linear at 4k tokens (4.00 times in memory and 4.00 times in time; 0.810 against 0.810)"
        in headline
    )
    assert "fewer than 3 seeds, which is no test" in headline


def noisy(mixer: str, context: int, seed: int) -> tuple[float, None, None]:
    return 0.8 + 0.02 * (context == 4096) + 0.001 * seed * (context == 4096), None, None


def test_what_is_beyond_the_spread() -> None:
    text = said(noisy, seeds=(0, 1, 2))
    assert "rises by 0.0210 on average over 6 pairs of line and seed, which is beyond their spread (95 %" in text
    assert "Wilcoxon p = 0.031" in text
    assert "the change is beyond the spread over seeds for both lines." in text
    text = said(lambda m, c, s: ((-1) ** s * 0.02 * (c == 4096) + 0.8 + 0.001 * s, None, None), seeds=(0, 1, 2, 3))
    assert "not beyond their spread" in text and "no effect of context is shown" in text
    assert "over seeds for neither line" in text or "over seeds for none of 2 lines" in text


def test_two_seeds_are_not_tested() -> None:
    text = said(noisy, mixers=("softmax",), seeds=(0, 1))
    assert "for softmax on average over 2 seeds, too few for a test" in text and "interval" not in text


def test_of_a_minimised_metric_the_lower_is_better() -> None:
    text = said(noisy, seeds=(0, 1, 2), maximize=False, metric="val_mse")
    assert "val_mse rises by 0.0210 (lower is better)" in text
    assert "The longest context is better than the shortest for none of 2 lines" in text
    assert "The best mean val_mse, 0.800, is shared by softmax at 1k tokens and linear at 1k tokens." in text


def test_one_context_only() -> None:
    text = said(flat, patches={8: 1024})
    assert text.startswith(
        "All complete trials have one context, 1k tokens, so the study does not say what context does"
    )
    assert "rises" not in text and "its best context" not in text


def test_no_baseline_and_nothing_else_than_the_baseline() -> None:
    assert "The baseline softmax is not among the lines, so no line is compared with it." in said(flat, ("a", "b"))
    assert "The study names no baseline, so no line is compared with another." in said(flat, ("a", "b"), baseline=None)
    assert "The baseline softmax is the only mixer" in said(flat, ("softmax",))


def test_nothing_complete() -> None:
    text = said(lambda m, c, s: (None, None, None))
    assert text.startswith("No trial is complete, so the study says nothing about val_mean_dice yet.")
    assert sentences(summarize(content([]))) == [
        "No trial is complete, so the study says nothing about val_mean_dice yet."
    ]


def test_the_headline_by_parts_and_not_at_all() -> None:
    part = said(lambda m, c, s: (0.8, 1.0 / (3 if m == "linear" else 1), 1e6), patches={4: 4096}, seeds=(0, 1, 2))
    assert "is reached by no line; the time alone by linear at 4k tokens (1.00 times in memory and 3.00 times" in part
    worse = said(lambda m, c, s: (0.8 - 0.1 * (m == "linear"), 1.0 / (9 if m == "linear" else 1), 1e6))
    assert "is reached by no line; no accuracy is equal." in worse
    dear = said(lambda m, c, s: (0.8, 1.0 + (m == "linear"), 1e6))
    assert "none of equal accuracy needs less memory or less time." in dear
    unknown = said(noisy)
    assert "the headline is not tested" in unknown


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ("a",),
            "the only other line has equal or better val_mean_dice than softmax; of these, a (2.00 times) needs less",
        ),
        (
            ("a", "b"),
            "both other lines have equal or better val_mean_dice than softmax; of these, a (2.00 times) and b",
        ),
        (("a", "b", "z"), "2 of 3 other lines have"),
        (("z",), "At 4k tokens, no other line has equal or better val_mean_dice than softmax."),
    ],
)
def test_who_is_cheaper_at_equal_accuracy(lines: tuple[str, ...], words: str) -> None:
    def law(mixer: str, context: int, seed: int) -> tuple[float, float, float]:
        return 0.8 - 0.2 * (mixer == "z"), 2.0 - (mixer != "softmax"), 1e6

    assert words in said(law, ("softmax", *lines))


def test_crossing_points() -> None:
    def law(mixer: str, context: int, seed: int) -> tuple[float, float, float]:
        time = {"softmax": context**2, "from": 2048 * context, "never": 1e9, "always": 1.0, "ends": 2**21}[mixer]
        return 0.8, time * 1e-3, 1e6

    text = said(law, ("softmax", "from", "never", "always"))
    assert (
        "A training step takes less time than with softmax at every context measured with always; from about 2000 "
        "tokens on with from; at no context measured with never." in text
    )
    one = said(law, ("softmax", "never"), {8: 1024})
    assert "the one context measured, a training step takes less time with no other line than with softmax." in one


def test_the_best_line_and_its_test() -> None:
    text = said(
        lambda m, c, s: (0.8 + 0.03 * (m == "linear") + 0.001 * s * (m == "linear"), None, None),
        patches={8: 1024},
        seeds=(0, 1),
    )
    assert "its difference from softmax there, +0.0305, cannot be tested: 2 seeds are too few." in text
    text = said(
        lambda m, c, s: (0.8 + 0.03 * (m == "linear") + 0.001 * s * (m == "linear"), None, None),
        patches={8: 1024},
        seeds=(0, 1, 2),
    )
    assert "+0.0310, is beyond the spread over 3 seeds (p < 0.001)." in text
    text = said(lambda m, c, s: (0.8 + 0.003 * (m == "softmax"), None, None), patches={8: 1024})
    assert "that of softmax at 1k tokens (1 trial); the next line, linear at 1k tokens, is 0.0030 behind" in text
    assert "within the tolerance" in text


def test_a_baseline_that_failed_where_others_did_not() -> None:
    text = said(lambda m, c, s: (None if m == "softmax" and c == 4096 else 0.8, 1.0, 1e6))
    assert "softmax failed at 4k tokens, where other lines did not." in text


def test_cautions() -> None:
    trials = crossed(("softmax", "linear"), PATCHES, (0,), flat)
    assert cautions(summarize(content(trials))) == []
    trials[0]["machine"] = {**MACHINE, "gpu": "NVIDIA H100", "device": "cuda"}
    trials[1]["measured"]["batch_size"] = 2
    machines, batches = cautions(summarize(content(trials)))
    assert "on 2 machines" in machines and "3 of 4 trials that ran on CPU, 2 of 4 cores" in machines
    assert "different batch sizes (2, 4)" in batches


def test_every_sentence_ends_once() -> None:
    laws: list[Law] = [flat, noisy, lambda m, c, s: (None, None, None), lambda m, c, s: (0.8, 1.0, None)]
    for law in laws:
        for seeds in ((0,), (0, 1), (0, 1, 2)):
            trials = crossed(("softmax", "linear", "mamba"), PATCHES, seeds, law)
            for sentence in sentences(summarize(content(trials))):
                assert (
                    sentence.endswith(".") and ".." not in sentence and "  " not in sentence and "None" not in sentence
                )


def grown(mixer: str, context: int, seed: int) -> tuple[float, float, float]:
    """Softmax grows with the square of the context, linear with the context; no value counts."""
    return (
        0.0,
        context**2 * 1e-6 if mixer == "softmax" else context * 2e-4,
        context * (1e4 if mixer == "softmax" else 5e3),
    )


def untrained(contexts: Any) -> dict[str, Any]:
    found = content(crossed(("softmax", "linear"), contexts, (0,), grown), trained=False, metric="", budget={})
    for trial in found["trials"]:
        trial.update(value=None, metrics={}, history=[], epochs=None, steps=None, train_seconds=None)
        trial["measured"]["epoch_steps"] = 100
    return found


def test_a_study_that_trains_nothing_speaks_of_costs_alone() -> None:
    found = sentences(summarize(untrained({16: 64, 8: 256, 4: 1024})))
    assert found[
        0
    ] == "At 1k tokens a training step takes 0.195 (linear) of the time and 0.500 (linear) of the memory " + (
        "that it takes with softmax."
    )
    assert found[1] == (
        "Fitted over all contexts, from 64 tokens to 1k tokens, time grows with an exponent of 2.00 (softmax) and 1.00 "
        "(linear), memory grows with an exponent of 1.00 (softmax) and 1.00 (linear)."
    )
    assert "A training step takes less time than with softmax from about 200 tokens on with linear." in found
    assert not any("val" in sentence or "better" in sentence or "headline" in sentence for sentence in found)


def test_an_epoch_takes_its_steps() -> None:
    (group, *_) = summarize(untrained({8: 1024})).groups
    assert group.costs["epoch_seconds"] == pytest.approx(100 * group.costs["step_seconds"])


def test_costs_without_a_baseline_or_measurements() -> None:
    made = untrained({8: 1024})
    made["study"]["baseline"] = None
    assert sentences(summarize(made)) == ["The study names no baseline, so no line is compared with another."]
    for trial in made["trials"]:
        trial.update(state="failed", measured=None)
    made["study"]["baseline"] = "softmax"
    assert sentences(summarize(made)) == ["No trial was measured, so the study says nothing yet."]
