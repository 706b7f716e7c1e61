from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch

from monai_ext.bench import measure
from monai_ext.bench.measure import find_device, machine, peak_memory, spread, time_in_turn, timed

CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")


def contestants(*seconds: float) -> tuple[list[Callable[[], float]], list[str]]:
    """Passes that say they took so long, and the list of those that ran."""
    ran: list[str] = []

    def contestant(name: str, value: float) -> Callable[[], float]:
        def run() -> float:
            ran.append(name)
            return value

        return run

    return [contestant(name, value) for name, value in zip("ab", seconds)], ran


def test_contestants_take_turns_after_a_warm_up() -> None:
    passes, ran = contestants(0.4, 0.6)
    assert time_in_turn(passes, [0.4, 0.6], repeats=3, seconds=60) == [[0.4] * 3, [0.6] * 3]
    assert "".join(ran) == "ab" + "ababab"


def test_a_long_pass_needs_no_warm_up_and_is_repeated_less_often() -> None:
    passes, ran = contestants(0.4, 9.0)
    assert time_in_turn(passes, [0.4, 9.0], repeats=4, seconds=60) == [[0.4] * 4, [9.0] * 2]
    assert "".join(ran) == "a" + "ababaa"


def test_a_short_pass_is_repeated_more_often() -> None:
    passes, _ = contestants(0.001)
    assert [len(times) for times in time_in_turn(passes, [0.001], repeats=3, seconds=60)] == [15]


def test_no_pass_begins_that_would_end_too_late() -> None:
    passes, ran = contestants(2.0, 30.0)
    assert time_in_turn(passes, [2.0, 30.0], repeats=2, seconds=10) == [[2.0, 2.0], []]
    assert "".join(ran) == "aa"
    assert time_in_turn(passes, [2.0, 30.0], repeats=2, seconds=1) == [[], []]


def test_spread() -> None:
    assert spread([4.0, 1.0, 2.0, 3.0]) == {"median": 2.5, "min": 1.0, "max": 4.0, "repeats": 4}
    assert spread([5.0, 1.0, 2.0])["median"] == 2.0


def test_timed() -> None:
    assert 0 < timed(lambda: torch.ones(10).sum(), CPU) < 10


def hold(megabytes: int) -> None:
    held = torch.ones(megabytes * 2**18)  # every page is touched
    del held


@linux
def test_peak_memory_sees_what_is_freed_again() -> None:
    hold(1)
    for size in (200, 40):  # a lower peak than an earlier one counts, too
        peak, method = peak_memory(lambda size=size: hold(size), CPU)
        assert method in ("peak_rss", "max_rss", "sampled")
        if method == "peak_rss":
            assert peak == pytest.approx(size * 2**20, rel=0.05)


@linux
def test_peak_memory_where_it_cannot_be_set_back() -> None:
    peak, method = measure._peak_without_reset(lambda: [hold(100) for _ in range(20)])
    assert method in ("max_rss", "sampled") and peak == pytest.approx(100 * 2**20, rel=0.2)


def test_peak_memory_without_any_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_max_rss", lambda: None)
    monkeypatch.setattr(measure, "_resident", lambda: None)
    assert measure._peak_without_reset(lambda: hold(1)) == (None, "none")


@pytest.mark.gpu
def test_time_and_memory_of_a_gpu() -> None:
    device = find_device("cuda")

    def step() -> None:
        held = torch.ones(64 * 2**18, device=device)
        held.sum()

    assert peak_memory(step, device)[0] == pytest.approx(64 * 2**20, rel=0.01)
    assert 0 < timed(step, device) < 10


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == CPU
    with pytest.raises(ValueError, match="finds no CUDA device"):
        find_device("cuda")
    with pytest.raises(ValueError, match="device must be"):
        find_device("tpu")


def test_machine() -> None:
    known = machine(CPU, threads=3)
    assert known["threads"] == 3 and known["cpu"] and known["cores"] >= 1
    assert known["torch"] == torch.__version__ and known["date"].startswith("20")
