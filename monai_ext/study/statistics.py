"""Spread, paired tests, fronts and crossing points of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
# fewer pairs give no interval that is worth its name
T_PAIRS = 3
# with five pairs the signed-rank test cannot fall below 0.05 (two-sided 2 / 2**5)
WILCOXON_PAIRS = 6


@dataclass(frozen=True)
class Spread:
    """`sd` is that of a sample (divided by n - 1), None for fewer than two values; all None for no value."""

    n: int
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Paired:
    """Differences of pairs; `low` to `high` is the interval at `LEVEL`.

    The interval and `p` (two-sided t-test) are None for fewer than `T_PAIRS` pairs and where all differences are the
    same, for then a t-test means nothing; `p_wilcoxon` (two-sided signed-rank test) for fewer than `WILCOXON_PAIRS`.
    """

    n: int
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_wilcoxon: float | None = None

    @property
    def tested(self) -> bool:
        return self.low is not None

    @property
    def beyond_chance(self) -> bool:
        """The interval leaves out 0; and the signed-rank test, where there is one, agrees."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return False
        return self.p_wilcoxon is None or self.p_wilcoxon < 1 - LEVEL


@dataclass(frozen=True)
class Crossing:
    """From where one curve lies below another.

    `kind`: "always" (at every place that both have), "from" (at `place`, interpolated, and at all after it), "ends"
    (below at some places, but not at the last), "never", "unknown" (no place in common). `places` are those in
    common, `below` those of them where it is below.
    """

    kind: str
    place: float | None
    places: tuple[float, ...]
    below: tuple[float, ...]


def spread(values: Sequence[float]) -> Spread:
    """Number, mean, standard deviation, least and greatest."""
    if not values:
        return Spread(0)
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(len(values), float(np.mean(values)), sd, float(min(values)), float(max(values)))


def paired(differences: Sequence[float]) -> Paired:
    """The paired t-test and the signed-rank test of Wilcoxon (1945), zeros left out, as far as the number allows."""
    n = len(differences)
    if not n:
        return Paired(0)
    values = np.asarray(differences, dtype=np.float64)
    mean, sd = float(values.mean()), float(values.std(ddof=1)) if n > 1 else None
    low = high = p = p_wilcoxon = None
    if n >= T_PAIRS and sd is not None and sd > 1e-12 * float(np.abs(values).max()):
        error = sd / math.sqrt(n)
        half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
        low, high = mean - half, mean + half
        p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    if n >= WILCOXON_PAIRS:
        p_wilcoxon = float(stats.wilcoxon(values).pvalue) if values.any() else 1.0
    return Paired(n, mean, sd, low, high, p, p_wilcoxon)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """The p values for as many tests as there are numbers: Holm, *Scand. J. Statist.* 6 (1979) 65-70."""
    order = sorted((value, i) for i, value in enumerate(values) if value is not None)
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (value, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * value))
        adjusted[i] = highest
    return adjusted


def front(points: Sequence[tuple[float, float]], maximize: bool) -> list[int]:
    """The Pareto front of points (cost, value): indices by rising cost of those than which none is better.

    Better is no dearer and no worse, and one of both more so; points that are the same in both stand or fall together.
    """
    sign = 1 if maximize else -1

    def beaten(point: tuple[float, float]) -> bool:
        return any(
            cost <= point[0] and sign * value >= sign * point[1] and (cost, value) != point for cost, value in points
        )

    return sorted((i for i, point in enumerate(points) if not beaten(point)), key=lambda i: (points[i][0], i))


def crossing(curve: Mapping[float, float], other: Mapping[float, float]) -> Crossing:
    """From where on `curve` is below `other`: both map places to values and are lines in log-log between them.

    Only places and values above 0 count, and only places that both have.
    """
    places = tuple(x for x in sorted(curve) if x > 0 and other.get(x, 0) > 0 and curve[x] > 0)
    above = [math.log(curve[x]) - math.log(other[x]) for x in places]
    below = tuple(x for x, distance in zip(places, above) if distance < 0)
    if not places:
        return Crossing("unknown", None, places, below)
    if len(below) in (0, len(places)):
        return Crossing("always" if below else "never", None, places, below)
    if above[-1] >= 0:
        return Crossing("ends", None, places, below)
    last = max(i for i, distance in enumerate(above) if distance >= 0)
    share = above[last] / (above[last] - above[last + 1])
    start, end = math.log(places[last]), math.log(places[last + 1])
    return Crossing("from", math.exp(start + share * (end - start)), places, below)
