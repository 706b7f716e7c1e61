from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch

from monai_ext.bench import mixers as bench
from monai_ext.bench.mixers import (
    Case,
    Settings,
    family_of,
    grid_of,
    measure,
    parse_dims,
    parse_mixers,
    parse_tokens,
    plan,
    run_cases,
)
from monai_ext.mixers import MIXERS, Mixer, SoftmaxMixer
from tests.bench.stand_ins import Children


@pytest.mark.parametrize(
    ("tokens", "dims", "grid"),
    [(1024, 2, (32, 32)), (1024, 3, (16, 8, 8)), (65536, 3, (64, 32, 32)), (2048, 2, (64, 32)), (8, 3, (2, 2, 2))],
)
def test_grids_are_near_square_or_cubic(tokens: int, dims: int, grid: tuple[int, ...]) -> None:
    assert grid_of(tokens, dims) == grid and math.prod(grid) == tokens


def test_mixers_by_name_and_by_json() -> None:
    assert [name for name, _ in parse_mixers(None)] == list(MIXERS)
    assert parse_mixers("seqnorm, softmax,seqnorm") == [("softmax", "{}"), ("seqnorm", "{}")]
    spec = '["linear", {"name": "seqnorm", "scale": "sqrt_n"}]'
    assert parse_mixers(spec)[1:] == [("linear", "{}"), ("seqnorm", '{"scale": "sqrt_n"}')]
    case = Case("seqnorm", '{"eps": 1e-05, "scale": "sqrt_n"}', 3, 4096, "default")
    assert str(case) == "seqnorm(eps=1e-05, scale=sqrt_n) 3D 4k default" and Case.of(case.record()) == case


@pytest.mark.parametrize(
    ("parse", "text", "words"),
    [
        (parse_mixers, "softmaxx", "unknown mixer 'softmaxx'; known mixers: softmax"),
        (parse_mixers, '{"name": "linear", "speed": 9}', "no option 'speed'"),
        (parse_mixers, '["linear"', "no valid JSON"),
        (parse_mixers, "[3]", "a mixer is a name"),
        (parse_tokens, "1000", "powers of two"),
        (parse_tokens, "1k,many", "'many'"),
        (parse_tokens, "4", "powers of two"),
        (parse_tokens, "", "powers of two"),
        (parse_dims, "4", "dims must be"),
    ],
)
def test_bad_arguments(parse: Any, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)
    assert parse_tokens("4k,1024,1K") == [1024, 4096] and parse_dims("3,2") == [2, 3]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 0}, "batch must be a whole number"),
        ({"threads": True}, "threads must be"),
        ({"repeats": "many"}, "repeats must be"),
        ({"max_seconds": 0}, "max_seconds must be"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16"),
        ({"heads": 5}, "width 192 is not divisible by heads 5"),
    ],
)
def test_bad_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Settings(**changes)


class Bound(SoftmaxMixer):
    """Belongs to one grid, is for 2D only, and wants to know its layer."""

    fixed_grid = True
    dims: ClassVar[tuple[int, ...]] = (2,)

    def __init__(self, dim: int, num_heads: int, spatial_dims: int, grid: Any = None, layer: int | None = None) -> None:
        super().__init__(dim, num_heads, spatial_dims)
        self.bind_grid(grid)
        if layer != 0:
            raise ValueError(f"layer must be 0, got {layer}.")

    def forward(self, x: torch.Tensor, grid: tuple[int, ...], bias: torch.Tensor | None = None) -> torch.Tensor:
        self.check_grid(x, grid)
        return super().forward(x, grid, bias)


def test_families_follow_from_attributes() -> None:
    class Near(SoftmaxMixer):
        local = True
        reads_grid = True

    assert family_of(Bound) == "one grid only" and family_of(Near(4, 1, 2)) == "local"
    assert family_of(SoftmaxMixer) == "set of tokens"
    near = SoftmaxMixer(4, 1, 2)
    near.causal = True  # type: ignore[misc]  # as an option may have it
    assert family_of(near) == "causal"


def test_small_cases_come_first_softmax_before_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "bound", Bound)
    cases = plan(parse_mixers("bound,linear"), [2, 3], [4096, 1024], ["default"])
    assert [str(case) for case in cases[:5]] == [
        "softmax 2D 1k default",
        "bound 2D 1k default",
        "linear 2D 1k default",
        "softmax 3D 1k default",
        "linear 3D 1k default",  # "bound" is not for 3D
    ]
    assert len(cases) == 10 and cases[-1].tokens == 4096


def request(**changes: Any) -> dict[str, Any]:
    settings = vars(Settings(width=8, heads=2, repeats=2))
    return {**settings, "spec": {"name": "seqnorm"}, "grid": [4, 8], "base_seconds": None, **changes}


def never(reason: str) -> Any:
    raise AssertionError(reason)


@pytest.fixture
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "guard_memory", lambda: None)  # it would bind the tests' own process


@pytest.mark.usefixtures("no_limits")
def test_measure_times_both_and_takes_the_peak() -> None:
    found = measure(request(base_seconds=1e-3), never)
    assert found["family"] == "set of tokens" and not found["cold"]
    assert found["parameters"] == sum(p.numel() for p in MIXERS["seqnorm"](8, 2, 2).parameters())
    assert 0 < found["time"]["min"] <= found["time"]["median"] <= found["time"]["max"] and found["time"]["repeats"] >= 2
    assert found["base_time"]["repeats"] >= 2 and found["share"]["median"] > 0
    assert found["memory"] is None or found["memory"] >= 0
    alone = measure(request(), never)
    assert alone["base_time"] is None and alone["share"] is None


@pytest.mark.usefixtures("no_limits")
def test_measure_in_bfloat16_and_of_a_bound_mixer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "bound", Bound)
    assert measure(request(spec={"name": "bound"}), never)["family"] == "one grid only"
    assert measure(request(precision="bfloat16", base_seconds=1e-3), never)["share"]
    with pytest.raises(ValueError, match="grid of"):
        measure(request(spec={"name": "bound", "grid": [2, 2]}), never)


@pytest.mark.usefixtures("no_limits")
def test_one_cold_pass_where_there_is_no_time_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "time_in_turn", lambda passes, *_: [[] for _ in passes])
    found = measure(request(base_seconds=1.0), never)
    assert found["cold"] and found["time"]["repeats"] == 1 and found["share"] is None


def run(monkeypatch: pytest.MonkeyPatch, tokens: list[int], seconds: float = 60.0) -> tuple[list[Any], Children]:
    children = Children()
    monkeypatch.setattr(bench, "run_child", children)
    cases = plan(parse_mixers("linear"), [2], tokens, ["default"])
    return list(run_cases(cases, Settings(max_seconds=seconds), {})), children


def test_a_mixer_is_offered_softmax_where_it_is_fast_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    _, children = run(monkeypatch, [1024, 4096, 8192], seconds=1000)
    linear = [request["base_seconds"] for request in children.requests if request["spec"]["name"] == "linear"]
    assert linear == [pytest.approx(1.05, rel=0.01), pytest.approx(16.8, rel=0.01), None]


def test_no_process_is_started_for_what_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    records, children = run(monkeypatch, [1024, 4096, 16384, 65536])
    softmax = [record for record in records if record["name"] == "softmax"]
    assert [record["status"] for record in softmax] == ["measured", "measured", "skipped", "skipped"]
    assert softmax[2]["reason"] == "one pass would take about 268 s, more than max_seconds=60."
    assert softmax[3]["reason"].startswith("fewer tokens take longer")
    assert len(children.requests) == 6  # two of softmax, four of the other
    assert all(record["status"] == "measured" for record in records if record["name"] == "linear")


def test_what_is_done_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    records, _ = run(monkeypatch, [1024])
    done = {Case.of(record): record for record in records}
    children = Children()
    monkeypatch.setattr(bench, "run_child", children)
    told: list[Case] = []
    cases = plan(parse_mixers("linear,sima"), [2], [1024], ["default"])
    (new,) = run_cases(cases, Settings(), done, told.append)
    assert new["mixer"] == "sima" and [case.name for case in told] == ["sima"]
    assert children.requests[0]["base_seconds"] is not None  # softmax's time is taken from what is done


def test_every_mixer_can_be_planned() -> None:
    assert {case.name for case in plan(parse_mixers(None), [2, 3], [64], ["default"])} == set(MIXERS)
    assert all(issubclass(mixer, Mixer) for mixer in MIXERS.values())
