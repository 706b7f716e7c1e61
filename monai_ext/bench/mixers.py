"""Every mixer against fused softmax attention: the cases, and the worker that measures one of them.

Legend: B batch, N tokens, C channels.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from monai_ext.bench.child import SKIPPED, GiveUp, answer, at_most, guard_memory, run_child
from monai_ext.bench.measure import load, peak_memory, spread, time_in_turn, timed, without_gradients
from monai_ext.bench.report import BASE, size
from monai_ext.bench.settings import PRECISIONS, RunSettings
from monai_ext.mixers import MIXERS, Mixer, MixerSpec, build_mixer, split_spec

# a mixer's worker times softmax, too, where one pass of it takes no longer than this
BASE_SECONDS = 40.0
# a case is not tried where the smaller ones say that it would take this many times its limit
PATIENCE = 2
# the grid of the pass that loads libraries, by spatial dimensions
TINY = {2: (8, 8), 3: (4, 4, 4)}

# what a mixer's attributes say about it, the first that holds
FAMILIES = ("one grid only", "local", "causal", "reads the grid", "set of tokens")


@dataclass(frozen=True)
class Settings(RunSettings):
    """What all cases of a run share.

    Raises:
        ValueError: for a number or a precision that cannot be.
    """

    width: int = 192
    heads: int = 6
    precision: str = "float32"

    counts = ("width", "heads", *RunSettings.counts)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}: change one of them.")


@dataclass(frozen=True)
class Case:
    """One mixer at one size."""

    name: str
    options: str  # as JSON
    dims: int
    tokens: int
    allocator: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Case:
        """The case that a record is of."""
        options = json.dumps(record["options"], sort_keys=True)
        return cls(record["name"], options, record["dims"], record["tokens"], record["allocator"])

    @property
    def mixer(self) -> str:
        """The name, with its options if there are any."""
        options = json.loads(self.options)
        words = ", ".join(
            f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in options.items()
        )
        return f"{self.name}({words})" if words else self.name

    def __str__(self) -> str:
        return f"{self.mixer} {self.dims}D {size(self.tokens)} {self.allocator}"

    @property
    def grid(self) -> tuple[int, ...]:
        return grid_of(self.tokens, self.dims)

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "mixer": self.mixer, "grid": list(self.grid), "options": json.loads(self.options)}


def grid_of(tokens: int, dims: int) -> tuple[int, ...]:
    """The grid nearest to a square or cube whose axes are powers of two: 1024 is 32 x 32 or 16 x 8 x 8."""
    power = tokens.bit_length() - 1
    return tuple(2 ** ((power + dims - 1 - axis) // dims) for axis in range(dims))


def family_of(mixer: Mixer | type[Mixer]) -> str:
    has = (mixer.fixed_grid, mixer.local, mixer.causal, mixer.reads_grid, True)
    return FAMILIES[has.index(True)]


def parse_mixers(text: str | None) -> list[tuple[str, str]]:
    """Names and options (as JSON) of the mixers to measure, softmax first.

    Args:
        text: ``"a,b"``, or JSON: a mixer with options, or a list of names and of mixers with options; None for all.

    Raises:
        ValueError: for an unknown mixer or option, or JSON that is none.
    """
    specs: Iterable[MixerSpec] = MIXERS
    if text is not None and text.strip()[:1] in ("{", "["):
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"mixers is no valid JSON ({error}): {text!r}.") from error
        specs = content if isinstance(content, list) else [content]
    elif text is not None:
        specs = [name.strip() for name in text.split(",") if name.strip()]
    pairs = [(BASE, "{}")]
    for spec in specs:
        name, options = split_spec(spec)
        pairs.append((name, json.dumps(options, sort_keys=True)))
    return list(dict.fromkeys(pairs))


def parse_tokens(text: str) -> list[int]:
    """``"1k,4096"`` as ``[1024, 4096]``, ascending.

    Raises:
        ValueError: for what is no power of two, or less than 8.
    """
    numbers = set()
    for word in str(text).split(","):
        word = word.strip().lower()
        digits = word.removesuffix("k")
        number = int(digits) * (1024 if word.endswith("k") else 1) if digits.isascii() and digits.isdigit() else 0
        if number < 8 or number & (number - 1):
            raise ValueError(f"tokens must be powers of two from 8 on, such as 1k,4k,16k,64k; got {word!r}.")
        numbers.add(number)
    return sorted(numbers)


def parse_dims(text: str) -> list[int]:
    """``"2,3"`` as ``[2, 3]``.

    Raises:
        ValueError: for anything else than 2 and 3.
    """
    words = [word.strip() for word in str(text).split(",")]
    if not set(words) <= {"2", "3"}:
        raise ValueError(f"dims must be 2, 3 or 2,3; got {text!r}.")
    return sorted({int(word) for word in words})


def plan(
    mixers: Sequence[tuple[str, str]], dims: Sequence[int], tokens: Sequence[int], allocators: Sequence[str]
) -> list[Case]:
    """The cases in the order in which they run: small ones first, softmax before the others."""
    return [
        Case(name, options, dim, number, allocator)
        for number in sorted(tokens)
        for dim in dims
        for allocator in allocators
        for name, options in mixers
        if dim in MIXERS[name].dims
    ]


def run_cases(
    cases: Iterable[Case],
    settings: Settings,
    done: Mapping[Case, dict[str, Any]],
    announce: Callable[[Case], object] = lambda case: None,
) -> Iterator[dict[str, Any]]:
    """Measures the cases one after the other and gives their records.

    Args:
        cases: as `plan` orders them.
        settings: shared by all.
        done: records that need no repetition; they are not given again.
        announce: told of every case before it begins.
    """
    records = dict(done)
    for case in cases:
        if case not in records:
            announce(case)
            records[case] = {**case.record(), "family": family_of(MIXERS[case.name]), **_run(case, settings, records)}
            yield records[case]


def _run(case: Case, settings: Settings, records: Mapping[Case, dict[str, Any]]) -> dict[str, Any]:
    reason = _too_long(case, settings.max_seconds, records)
    if reason:
        return {"status": SKIPPED, "reason": reason}
    base = records.get(Case(BASE, "{}", case.dims, case.tokens, case.allocator), {}).get("time")
    seconds = base["median"] if base is not None and case.mixer != BASE else None
    request = {
        **asdict(settings),
        "spec": {"name": case.name, **json.loads(case.options)},
        "grid": case.grid,
        "base_seconds": seconds if seconds is not None and seconds <= BASE_SECONDS else None,
    }
    return {
        "load": load(),
        **run_child(
            "monai_ext.bench.mixers",
            request,
            threads=settings.threads,
            allocator=case.allocator,
            seconds=settings.max_seconds,
        ),
    }


def _too_long(case: Case, limit: float, records: Mapping[Case, dict[str, Any]]) -> str | None:
    """Why the case would take too long, if the same mixer's smaller ones say so."""
    same = (case.name, case.options, case.dims, case.allocator)
    known = {
        other.tokens: record
        for other, record in records.items()
        if (other.name, other.options, other.dims, other.allocator) == same and other.tokens < case.tokens
    }
    times = [(tokens, record["time"]["min"]) for tokens, record in sorted(known.items()) if record.get("time")]
    if any(record["status"] == SKIPPED for record in known.values()):
        return f"fewer tokens take longer than max_seconds={limit:g} already."
    if not times:
        return None
    (tokens, seconds), power = times[-1], 1.0
    if len(times) > 1:
        (before, less) = times[-2]
        power = min(2.0, max(1.0, math.log(seconds / less) / math.log(tokens / before)))
    expected = seconds * (case.tokens / tokens) ** power
    if expected > PATIENCE * limit:
        return f"one pass would take about {expected:.0f} s, more than max_seconds={limit:g}."
    return None


def measure(request: Mapping[str, Any], give_up: GiveUp) -> dict[str, Any]:
    """The worker's work: one mixer at one size, forward and backward.

    After a tiny pass, which loads libraries, the first pass at full size gives the peak memory. Then the mixer is
    timed, in turn with softmax where `base_seconds` is known. Where there is no time for another pass, the first one,
    which is cold, gives the time.
    """
    device, limit = torch.device(request["device"]), request["max_seconds"]
    torch.set_num_threads(request["threads"])
    if device.type == "cpu":
        guard_memory()
    torch.manual_seed(0)
    grid = tuple(request["grid"])
    with contextlib.suppress(Exception):  # a mixer may refuse so small a grid
        tiny = TINY[len(grid)]
        _step(_build(request["spec"], tiny, request), *_tokens(tiny, request), tiny, request)()
    mixer = _build(request["spec"], grid, request)
    tokens = _tokens(grid, request)
    step = _step(mixer, *tokens, grid, request)
    gc.collect()
    first = []
    with at_most(limit, give_up):
        memory, method = peak_memory(lambda: first.append(timed(step, device)), device)
    passes, expected = [without_gradients(step, [mixer, tokens[0]], device)], [first[0]]
    if request["base_seconds"] is not None:
        base = _build(BASE, grid, request)
        passes.append(without_gradients(_step(base, *tokens, grid, request), [base, tokens[0]], device))
        expected.append(request["base_seconds"])
    own, *other = time_in_turn(passes, expected, request["repeats"], limit - first[0])
    shares = [time / softmax for time, softmax in zip(own, other[0])] if other else []
    return {
        "family": family_of(mixer),
        "parameters": sum(parameter.numel() for parameter in mixer.parameters()),
        "time": spread(own or first),
        "cold": not own,
        "base_time": spread(other[0]) if shares else None,
        "share": spread(shares) if shares else None,
        "memory": memory,
        "memory_method": method,
    }


def _build(spec: MixerSpec, grid: tuple[int, ...], request: Mapping[str, Any]) -> Mixer:
    mixer = build_mixer(spec, request["width"], request["heads"], len(grid), grid=grid, layer=0)
    return mixer.to(request["device"]).train()


def _tokens(grid: tuple[int, ...], request: Mapping[str, Any]) -> tuple[torch.Tensor, dict[torch.dtype, torch.Tensor]]:
    """Tokens (B, N, C) that want a gradient, and the gradient of the output in every type that it may have."""
    shape = (request["batch"], math.prod(grid), request["width"])
    x = torch.randn(shape, device=request["device"], requires_grad=True)
    seed = torch.randn(shape, device=request["device"])
    return x, {dtype: seed.to(dtype) for dtype in {torch.float32, PRECISIONS[request["precision"]]}}


def _step(
    mixer: Mixer,
    x: torch.Tensor,
    seeds: Mapping[torch.dtype, torch.Tensor],
    grid: tuple[int, ...],
    request: Mapping[str, Any],
) -> Callable[[], None]:
    """Forward and backward; as in training, parameters are float32 and a lower precision is autocast's."""
    dtype = PRECISIONS[request["precision"]]

    def step() -> None:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=dtype != torch.float32):
            out = mixer(x, grid)
        out.backward(seeds[out.dtype])

    return step


if __name__ == "__main__":
    answer(measure)
