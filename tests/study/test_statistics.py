from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from monai_ext.study.statistics import Spread, crossing, front, holm, paired, spread


def test_spread_by_hand() -> None:
    assert spread([]) == Spread(0)
    assert spread([0.5]) == Spread(1, 0.5, None, 0.5, 0.5)
    # 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, over n - 1 = 7
    found = spread([2.0, 1.0, 6.0])
    assert (found.n, found.mean, found.low, found.high) == (3, 3.0, 1.0, 6.0)
    assert found.sd == pytest.approx(math.sqrt(7))


def test_paired_t_test_by_hand() -> None:
    # mean 3, sd sqrt(7), t = 3 / sqrt(7 / 3); 4.302653 is the two-sided 95 % point of t with 2 degrees of freedom
    found = paired([2.0, 1.0, 6.0])
    half = 4.302653 * math.sqrt(7 / 3)
    assert found.low == pytest.approx(3 - half, rel=1e-6) and found.high == pytest.approx(3 + half, rel=1e-6)
    assert found.tested and not found.beyond_chance and found.p_wilcoxon is None


def test_paired_tests_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.8, 0.02, 9), rng.normal(0.77, 0.02, 9)
    found = paired(list(one - other))
    reference = stats.ttest_rel(one, other)
    interval = reference.confidence_interval(0.95)
    assert found.p == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(one, other).pvalue)


@pytest.mark.parametrize(
    ("n", "tested", "ranked"), [(1, False, False), (2, False, False), (3, True, False), (6, True, True)]
)
def test_as_many_tests_as_pairs_allow(n: int, tested: bool, ranked: bool) -> None:
    found = paired([0.1 + 0.01 * i for i in range(n)])
    assert found.n == n and found.tested is tested and (found.p_wilcoxon is not None) is ranked
    assert found.beyond_chance is tested


def test_differences_without_spread_are_not_tested() -> None:
    assert not paired([0.1, 0.1, 0.1]).tested and not paired([0.1] * 6).beyond_chance
    same = paired([0.0] * 6)
    assert same.mean == 0 and not same.tested and same.p_wilcoxon == 1


def test_the_interval_and_the_ranks_must_agree() -> None:
    # six pairs: two ranks of the other sign give p = 0.09 or more, whatever the t interval says
    found = paired([-0.001, 1.0, 1.1, 0.9, 1.0, -0.002])
    assert found.p_wilcoxon is not None and found.p_wilcoxon > 0.05 and not found.beyond_chance


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.03, 0.04 times 3, 2, 1; never less than the one before
    assert holm([0.04, None, 0.01, 0.03]) == [pytest.approx(0.06), None, pytest.approx(0.03), pytest.approx(0.06)]
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_pareto_front() -> None:
    points = [(1.0, 0.5), (2.0, 0.4), (3.0, 0.7), (3.0, 0.6), (4.0, 0.7), (0.5, 0.1)]
    assert front(points, maximize=True) == [5, 0, 2]
    assert front(points, maximize=False) == [5]
    assert front([(1.0, 0.5), (1.0, 0.5)], maximize=True) == [0, 1] and front([], maximize=True) == []


def test_crossing_by_interpolation_in_logarithms() -> None:
    # powers cross where 100 x = x**2, and a straight line in log-log is met exactly
    contexts = (16.0, 64.0, 256.0, 1024.0)
    found = crossing({x: 100 * x for x in contexts}, {x: x**2 for x in contexts})
    assert found.kind == "from" and found.place == pytest.approx(100) and found.below == (256, 1024)
    # a step apart: at 256 as dear, thus from there on
    assert crossing({16: 2, 256: 1, 512: 1}, {16: 1, 256: 1, 512: 2}).place == pytest.approx(256)


@pytest.mark.parametrize(
    ("curve", "kind", "below"),
    [
        ({1: 0.5, 2: 0.5, 4: 0.5}, "always", (1, 2, 4)),
        ({1: 2.0, 2: 1.0, 4: 2.0}, "never", ()),
        ({1: 0.5, 2: 2.0, 4: 2.0}, "ends", (1,)),
        ({8: 0.5}, "unknown", ()),
        ({4: 0.5, 8: 0.1}, "always", (4,)),
        ({1: 0.5, 2: 2.0, 4: 0.5}, "from", (1, 4)),
    ],
)
def test_kinds_of_crossing(curve: dict[float, float], kind: str, below: tuple[float, ...]) -> None:
    found = crossing(curve, {1: 1.0, 2: 1.0, 4: 1.0})
    assert (found.kind, found.below) == (kind, below) and (found.place is not None) == (kind == "from")
