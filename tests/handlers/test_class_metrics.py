"""Figures of a classification against scikit-learn and by hand, their intervals, and inside an evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.handlers import from_engine
from torch import nn

from monai_ext.handlers import class_metrics
from monai_ext.handlers.class_metrics import (
    CLASS_METRICS,
    ClassMetric,
    calibration_bins,
    metrics_of,
    metrics_with_intervals,
)

sklearn = pytest.importorskip("sklearn.metrics")


def made_up(classes: int, cases: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are right more often than not, some of them equal."""
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, cases)
    logits = np.round(random.normal(0, 1, (cases, classes)) + 1.2 * np.eye(classes)[label], 1)
    return torch.from_numpy(logits).softmax(1).numpy(), label


def by_sklearn(metric: str, probability: np.ndarray, label: np.ndarray) -> float:
    found, binary = probability.argmax(1), probability.shape[1] == 2
    score = probability[:, 1] if binary else probability
    return {
        "accuracy": lambda: sklearn.accuracy_score(label, found),
        "balanced_accuracy": lambda: sklearn.balanced_accuracy_score(label, found),
        "macro_f1": lambda: sklearn.f1_score(label, found, average="macro"),
        "roc_auc": lambda: sklearn.roc_auc_score(label, score, multi_class="ovr", average="macro"),
        "average_precision": lambda: sklearn.average_precision_score(label, score),
        "brier_score": lambda: ((probability - np.eye(probability.shape[1])[label]) ** 2).sum() / len(label),
    }[metric]()


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("metric", [name for name in CLASS_METRICS if name != "calibration_error"])
def test_against_scikit_learn(metric: str, classes: int) -> None:
    assert CLASS_METRICS[metric](*made_up(classes)) == pytest.approx(by_sklearn(metric, *made_up(classes)))


def test_figures_of_each_class() -> None:
    probability, label = made_up(3)
    names = ["red", "white cell", "c"]
    found = metrics_of(probability, label, names)
    assert list(found)[: len(CLASS_METRICS)] == list(CLASS_METRICS)
    for number, name in enumerate(names):
        truth, positive = label == number, probability.argmax(1) == number
        assert found[f"sensitivity_{name}"] == pytest.approx(sklearn.recall_score(truth, positive))
        assert found[f"specificity_{name}"] == pytest.approx(sklearn.recall_score(~truth, ~positive))
        assert found[f"precision_{name}"] == pytest.approx(sklearn.precision_score(truth, positive))
        assert found[f"f1_{name}"] == pytest.approx(sklearn.f1_score(truth, positive))


def test_by_hand() -> None:
    """Four cases: confident and right, confident and wrong, unsure and right, sure and right."""
    probability = np.array([[0.92, 0.08], [0.06, 0.94], [0.45, 0.55], [0.0, 1.0]])
    label = np.array([0, 0, 1, 1])
    assert CLASS_METRICS["accuracy"](probability, label) == 0.75
    squares = [2 * 0.08**2, 2 * 0.94**2, 2 * 0.45**2, 0]
    assert CLASS_METRICS["brier_score"](probability, label) == pytest.approx(sum(squares) / 4)
    assert calibration_bins(probability, label) == [
        (pytest.approx(0.55), 1.0, 1),
        (pytest.approx((0.92 + 0.94 + 1) / 3), pytest.approx(2 / 3), 3),
    ]
    expected = (1 * 0.45 + 3 * (2.86 / 3 - 2 / 3)) / 4
    assert CLASS_METRICS["calibration_error"](probability, label) == pytest.approx(expected)
    perfect = np.eye(2)[label]
    assert CLASS_METRICS["brier_score"](perfect, label) == CLASS_METRICS["calibration_error"](perfect, label) == 0


def test_an_absent_class() -> None:
    """What does not exist is NaN and no part of a mean; what was said wrongly counts."""
    probability, label = made_up(3)
    label[label == 2] = 0
    found = metrics_of(probability, label, "abc")
    assert np.isnan([found[name] for name in ("roc_auc", "average_precision", "sensitivity_c")]).all()
    assert found["f1_c"] == found["precision_c"] == 0 and found["specificity_c"] < 1
    assert found["balanced_accuracy"] == pytest.approx(
        sklearn.recall_score(label, probability.argmax(1), labels=[0, 1], average="macro")
    )
    assert found["macro_f1"] == pytest.approx((found["f1_a"] + found["f1_b"]) / 3)
    silent = probability * [1, 1, 0] + [1e-3, 1e-3, 0]
    found = metrics_of(silent / silent.sum(1, keepdims=True), label, "abc")
    assert np.isnan(found["f1_c"]) and np.isnan(found["precision_c"]) and found["specificity_c"] == 1
    assert found["macro_f1"] == pytest.approx((found["f1_a"] + found["f1_b"]) / 2)


@pytest.mark.parametrize("number", [0, 1])
def test_only_one_class(number: int) -> None:
    probability, label = made_up(2)
    found = metrics_of(probability, np.full_like(label, number), "ab")
    assert np.isnan([found["roc_auc"], found["average_precision"], found[f"specificity_{'ab'[number]}"]]).all()
    assert found["balanced_accuracy"] == found["accuracy"] == found[f"sensitivity_{'ab'[number]}"]
    assert np.isnan(found[f"sensitivity_{'ab'[1 - number]}"])


# intervals


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No areas under curves, which take a while."""
    monkeypatch.setattr(class_metrics, "CLASS_METRICS", {"accuracy": CLASS_METRICS["accuracy"]})


def test_intervals() -> None:
    probability, label = made_up(2, 40)
    alone = [f"case {number}" for number in range(40)]
    found = metrics_with_intervals(probability, label, "ab", alone, resamples=50)
    values = metrics_of(probability, label, "ab")
    assert list(found) == list(values)
    for name, (value, low, high) in found.items():
        assert value == values[name]
        # draws with replacement make the expected calibration error larger
        assert low < high and (low <= value <= high or name == "calibration_error"), name


def test_the_interval_of_a_share(quick: None) -> None:
    """Against the formula of its standard error; the same with the same seed."""
    probability, label = made_up(2, 40)
    alone = [f"case {number}" for number in range(40)]
    found = metrics_with_intervals(probability, label, "ab", alone, resamples=300)
    assert metrics_with_intervals(probability, label, "ab", alone, resamples=300) == found
    assert metrics_with_intervals(probability, label, "ab", alone, resamples=300, seed=1) != found
    value, low, high = found["accuracy"]
    assert (high - low) / (2 * 1.96) == pytest.approx(np.sqrt(value * (1 - value) / 40), rel=0.25)


def test_cases_of_one_group_are_drawn_together(quick: None) -> None:
    probability, label = made_up(2, 20)
    probability, label = np.repeat(probability, 5, 0), np.repeat(label, 5)
    together = [f"picture {number // 5}" for number in range(100)]
    alone = [str(number) for number in range(100)]
    wide, narrow = (
        metrics_with_intervals(probability, label, "ab", groups, resamples=200)["accuracy"]
        for groups in (together, alone)
    )
    assert wide[0] == narrow[0]
    assert wide[2] - wide[1] == pytest.approx(np.sqrt(5) * (narrow[2] - narrow[1]), rel=0.3)


def test_groups_of_unequal_size(quick: None) -> None:
    """Every draw holds whole groups: with one wrong group of two, the accuracy is 0, 1 or that of both."""
    probability = np.array([[1.0, 0.0]] * 7)
    label = np.array([0, 0, 0, 0, 0, 1, 1])
    value, low, high = metrics_with_intervals(probability, label, "ab", list("xxxxxyy"), resamples=100)["accuracy"]
    assert value == pytest.approx(5 / 7) and (low, high) == (0, 1)


@pytest.mark.parametrize("groups", [["a"], ["a", "a", "a"]])
def test_a_single_group_has_no_interval(groups: list[str]) -> None:
    probability, label = made_up(2, len(groups))
    found = metrics_with_intervals(probability, label, "ab", groups)
    assert found["accuracy"][0] == metrics_of(probability, label, "ab")["accuracy"]
    assert all(np.isnan([low, high]).all() for _, low, high in found.values())


def test_a_figure_that_seldom_exists() -> None:
    """One case of the second class: draws without it have no area, and are left out of its interval."""
    probability, label = made_up(2, 12)
    label[:] = 0
    label[3] = 1
    found = metrics_with_intervals(probability, label, "ab", [str(number) for number in range(12)], resamples=50)
    assert np.isfinite(found["roc_auc"]).all() and np.isfinite(found["sensitivity_b"]).all()


# in an evaluator


def evaluate(items: list[dict[str, Any]], batch_size: int = 2, **metrics: ClassMetric) -> SupervisedEvaluator:
    key = next(iter(metrics))
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(items, batch_size=batch_size),
        network=nn.Identity(),
        key_val_metric={key: metrics.pop(key)},
        additional_metrics=metrics,
    )
    evaluator.run()
    return evaluator


@pytest.mark.parametrize("batch_size", [1, 4, 11])
@pytest.mark.parametrize("classes", [2, 3])
def test_all_cases_of_an_evaluation(classes: int, batch_size: int) -> None:
    """Of logits and of probabilities, whatever the batches, and anew in every run."""
    probability, label = made_up(classes, 11)
    items = [
        {"image": torch.from_numpy(np.log(p)) + 3 if number % 2 else torch.from_numpy(p), "label": int(y)}
        for number, (p, y) in enumerate(zip(probability, label))
    ]
    metrics = {name: ClassMetric(name, from_engine(["pred", "label"])) for name in CLASS_METRICS}
    engine = evaluate(items, batch_size, **metrics)
    for _ in range(2):
        for name, function in CLASS_METRICS.items():
            assert engine.state.metrics[name] == pytest.approx(function(probability, label)), name
            np.testing.assert_allclose(
                engine.state.metric_details[name].numpy(), np.column_stack([probability, label]), atol=1e-12
            )
        engine.run()


@pytest.mark.parametrize("as_batch", [True, False])
def test_references_of_any_form(as_batch: bool) -> None:
    metric = ClassMetric("accuracy").metric_fn
    pred = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    label = torch.tensor([[0.0], [1.0], [0.0]])
    metric(*((pred, label) if as_batch else (list(pred), [0, torch.tensor(1), np.float32(0)])))
    assert float(metric.aggregate()) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: ClassMetric("auc"), "unknown metric 'auc'; known ones: accuracy, .*calibration_error"),
        (lambda: ClassMetric().metric_fn([torch.zeros(2)], [2]), r"number of a class, 0 to 1, got \[2\.0\]"),
        (lambda: ClassMetric().metric_fn([torch.zeros(2)], [-1]), r"0 to 1, got \[-1\.0\]"),
        (lambda: ClassMetric().metric_fn([torch.zeros(3)], [0.5]), r"0 to 2, got \[0\.5\]"),
        (lambda: ClassMetric().metric_fn([torch.zeros(2)], [float("nan")]), r"got \[nan\]"),
        (lambda: ClassMetric().metric_fn([torch.zeros(2)], [torch.tensor([0, 1])]), r"got \[0\.0, 1\.0\]"),
        (lambda: ClassMetric().metric_fn([torch.zeros(2)]), "a metric needs a reference"),
        (lambda: ClassMetric().metric_fn(torch.zeros(1, 2)), "a metric needs a reference"),
        (lambda: ClassMetric().metric_fn.aggregate(), "the metric has seen no case"),
    ],
)
def test_mistakes(use: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        use()
