"""Numbers and lists in words, as the report's text and tables write them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from monai_ext.bench.report import number, size
from monai_ext.study.statistics import Paired, Spread

NONE = "–"


class Metric:
    """Writes values of one metric with as many decimals as their size asks for: three for a Dice, two for a PSNR.

    Args:
        values: all that will be written.
    """

    def __init__(self, values: Iterable[float]) -> None:
        largest = max((abs(value) for value in values), default=0)
        self.decimals = min(6, max(2, 3 - math.ceil(math.log10(largest)))) if largest else 3

    def value(self, value: float | None) -> str:
        return NONE if value is None else f"{value:.{self.decimals}f}"

    def difference(self, value: float | None) -> str:
        """With its sign and a further decimal."""
        if value is None:
            return NONE
        text = f"{value:+.{self.decimals + 1}f}"
        return text if float(text) else text[1:]  # no +0.0000 and no -0.0000

    def amount(self, value: float) -> str:
        """How much, without a sign."""
        return f"{abs(value):.{self.decimals + 1}f}"

    def spread(self, spread: Spread) -> str:
        """Mean ± standard deviation (number)."""
        if spread.mean is None:
            return NONE
        sd = "" if spread.sd is None else f" ± {spread.sd:.{self.decimals}f}"
        return f"{self.value(spread.mean)}{sd} ({spread.n})"

    def interval(self, pairs: Paired) -> str:
        return f"{self.difference(pairs.low)} to {self.difference(pairs.high)}" if pairs.tested else NONE


def listed(items: Sequence[str], last: str = "and") -> str:
    """One; one and two; one, two and three. Items that hold a comma are parted by semicolons."""
    if len(items) < 2:
        return "".join(items)
    several = len(items) > 2 and any("," in item for item in items)
    comma, join = ("; ", f"; {last} ") if several else (", ", f" {last} ")
    return comma.join(items[:-1]) + join + items[-1]


def count(n: int, one: str, many: str | None = None) -> str:
    """1 seed, 2 seeds, no seed."""
    return f"{n or 'no'} {one if n < 2 else many or one + 's'}"


def times(ratio: float) -> str:
    """A ratio from 1 on, as in "2.31 times"."""
    return f"{number(ratio)} times"


def p_value(p: float | None) -> str:
    """With its sign of equality: "= 0.012", "< 0.001"."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def tokens(context: float) -> str:
    """16k tokens; what was interpolated, rounded to two digits, is no multiple of 1024 any more."""
    if isinstance(context, int):
        return f"{size(context)} {'token' if context == 1 else 'tokens'}"
    digits = 1 - math.floor(math.log10(context))
    return f"{round(context, digits):.0f} tokens" if context >= 2 else "1 token"
