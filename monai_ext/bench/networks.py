"""Our networks against MONAI's classes: the cases, and the worker that checks and measures one of them."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_ext.bench.child import MEASURED, SKIPPED, GiveUp, answer, at_most, guard_memory, one_sentence, run_child
from monai_ext.bench.measure import load, peak_memory, spread, time_in_turn, timed, without_gradients
from monai_ext.bench.peers import (
    CHECKPOINT,
    MODES,
    MONAI,
    NETWORKS,
    OURS,
    PRESETS,
    Preset,
    build,
    check_size,
    missing_packages,
    run,
    tokens,
)
from monai_ext.bench.settings import PRECISIONS, RunSettings

REFUSED = "refused"
# largest difference of an output, and of a gradient as a share of its norm. A gradient that vanishes but for
# rounding, such as that of a bias before a norm, counts as one whose norm is this share of all gradients together
TOLERANCE, FLOOR = 1e-4, 1e-3
# gradients that differ by less than this in float32 are compared in float64
KINKS = 1e-2
# windows of the pass that loads libraries
TINY_WINDOW = 2


@dataclass(frozen=True)
class Case:
    """A preset at one size, in one mode."""

    name: str
    size: int
    part: int  # size of a window or a patch
    mode: str
    checkpoint: str
    compiled: bool
    precision: str
    allocator: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Case:
        """The case that a record is of."""
        return cls(**{field: record[field] for field in cls.__dataclass_fields__})

    @property
    def label(self) -> str:
        """What is compared, without how."""
        preset = PRESETS[self.name]
        power = {2: "²", 3: "³"}[preset.dims]
        words = [f"{self.name} {self.size}{power} {NETWORKS[preset.network].part} {self.part}"]
        words += {"no": [], "ours": ["ours checkpointed"], "both": ["both checkpointed"]}[self.checkpoint]
        return ", ".join([*words, *(["compiled"] if self.compiled else [])])

    def __str__(self) -> str:
        return f"{self.label}, {self.mode} {self.precision} {self.allocator}"

    def record(self) -> dict[str, Any]:
        preset = PRESETS[self.name]
        more = {"label": self.label, "network": preset.network, "dims": preset.dims, "note": preset.note}
        return {**asdict(self), **more, "tokens": tokens(preset, self.size, self.part)}


@dataclass(frozen=True)
class Choice:
    """What is said beside the presets; None leaves what they say."""

    names: Sequence[str]
    sizes: Sequence[int] | None = None
    windows: Sequence[int] | None = None
    patches: Sequence[int] | None = None
    modes: Sequence[str] = MODES
    precisions: Sequence[str] = tuple(PRECISIONS)
    allocators: Sequence[str] = ("default",)
    checkpoint: str | None = None
    compiled: bool = False


def parse_precision(text: str) -> list[str]:
    """The precisions of ``"float32"``, ``"bfloat16"`` or ``"both"``.

    Raises:
        ValueError: for another name.
    """
    if text not in (*PRECISIONS, "both"):
        raise ValueError(f"precision must be {', '.join(PRECISIONS)} or both, got {text!r}.")
    return list(PRECISIONS) if text == "both" else [text]


def parse_checkpoint(text: str | None) -> str | None:
    """One of `CHECKPOINT`; the option alone means ours.

    Raises:
        ValueError: for another word.
    """
    word = {"True": "ours", "False": "no"}.get(str(text), text)
    if word is not None and word not in CHECKPOINT:
        raise ValueError(f"checkpoint must be one of {', '.join(CHECKPOINT)}, got {text!r}.")
    return word


def plan(choice: Choice) -> list[Case]:
    """The cases in the order in which they run.

    Raises:
        ValueError: where nothing is left to measure.
    """
    cases = []
    for name in choice.names:
        preset = PRESETS[name]
        part = NETWORKS[preset.network].part
        parts = {"window": choice.windows, "patch": choice.patches}[part] or preset.parts
        modes = preset.modes if tuple(choice.modes) == MODES else choice.modes
        cases += [
            Case(
                name, size, number, mode, choice.checkpoint or preset.checkpoint, choice.compiled, precision, allocator
            )
            for size in choice.sizes or preset.sizes
            for number in parts
            for mode in modes
            if mode in NETWORKS[preset.network].modes
            for precision in choice.precisions
            for allocator in choice.allocators
        ]
    if not cases:
        raise ValueError(
            f"cases {', '.join(choice.names)} have none of the modes {', '.join(choice.modes)}: "
            "the encoder alone is there in those of a Swin UNETR."
        )
    return cases


def run_cases(
    cases: Iterable[Case],
    settings: RunSettings,
    done: Iterable[Case],
    announce: Callable[[Case], object] = lambda case: None,
) -> Iterator[dict[str, Any]]:
    """Measures the cases one after the other and gives their records.

    Args:
        cases: as `plan` orders them.
        settings: shared by all.
        done: cases that need no repetition; they are not given again.
        announce: told of every case before it begins.
    """
    done, checks = set(done), {}
    for case in cases:
        if case not in done:
            announce(case)
            yield {**case.record(), "load": load(), **_run(case, settings, checks)}


def _run(case: Case, settings: RunSettings, checks: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    preset = PRESETS[case.name]
    missing = missing_packages(preset)
    if missing:
        return {"status": SKIPPED, "reason": missing, "again": True}  # the next run may have the package
    request = {**asdict(settings), **asdict(case), "preset": asdict(preset)}

    def ask(task: str, passes: int = 1, **more: Any) -> dict[str, Any]:
        return run_child(
            "monai_ext.bench.networks",
            {**request, "task": task, **more},
            threads=settings.threads,
            allocator=case.allocator,
            seconds=passes * settings.max_seconds,
        )

    found: dict[str, Any] = {"check": None, "monai_reason": ""}
    if preset.against in ("same", "check"):
        key = (case.name, case.part, case.checkpoint, case.compiled)
        if key not in checks:
            checks[key] = ask("check", passes=4)
        check = checks[key]
        if check["status"] != MEASURED:
            return {"status": REFUSED, "reason": f"could not be compared with MONAI's: {check['reason']}"}
        found |= {key: check[key] for key in ("check", "monai_reason")}
        if check["difference"]:
            return {**found, "status": REFUSED, "reason": check["difference"]}
    ours = ask("memory", side=OURS)
    if ours["status"] != MEASURED:
        return {**found, "status": ours["status"], "reason": ours["reason"]}
    found |= {key: ours[key] for key in ("parameters", "memory", "memory_method")}
    seconds = {OURS: ours["seconds"]}
    if preset.against == "":
        found["monai_reason"] = "MONAI has none."
    elif preset.against == "check":
        found["monai_reason"] = f"not tried: {preset.note}."
    elif not found["monai_reason"]:
        monai = ask("memory", side=MONAI)
        found |= {"monai_memory": monai.get("memory"), "monai_reason": monai["reason"]}
        if monai["status"] == MEASURED:
            seconds[MONAI] = monai["seconds"]
    times = ask("time", passes=4, seconds=seconds)
    if times["status"] != MEASURED and len(seconds) > 1:  # both in one process may be too much
        found["monai_reason"] = f"not timed beside ours: {times['reason']}"
        times = ask("time", passes=4, seconds={OURS: seconds[OURS]})
    reason = times.get("monai_reason") or found["monai_reason"]
    return {**found, **times, "monai_reason": reason}


# --- the worker


def work(request: Mapping[str, Any], give_up: GiveUp) -> dict[str, Any]:
    """One of the tasks of a case: "check", "memory" or "time"."""
    torch.set_num_threads(request["threads"])
    if request["device"] == "cpu":
        guard_memory()
    torch.manual_seed(0)
    tasks = {"check": check, "memory": measure_memory, "time": measure_times}
    return tasks[request["task"]]({**request, "preset": Preset(**request["preset"])}, give_up)


def check(request: Mapping[str, Any], give_up: GiveUp) -> dict[str, Any]:
    """Whether both give the same outputs and gradients, at a small size, in float32.

    Where a value before an activation such as leaky ReLU lies near zero, rounding decides on the gradient that passes:
    among millions of values a few do. So where gradients in float32 differ by more than `TOLERANCE` but less than
    `KINKS`, those in float64 decide.

    Returns:
        "difference": a sentence, empty where they agree; "monai_reason": why MONAI's cannot be run at all; "check":
        the largest differences
    """
    size = check_size(request["preset"], request["part"])
    unable = {"check": None, "difference": ""}
    with at_most(4 * request["max_seconds"], give_up, "the comparison of outputs and gradients"):
        try:
            monai = _build(request, MONAI, size)
        except Exception as error:
            return {**unable, "monai_reason": one_sentence(error)}
        with torch.no_grad():
            for parameter in monai.parameters():  # nothing is left at zero or one
                parameter.add_(0.02 * torch.randn_like(parameter))
        ours = _build(request, OURS, size)
        load_weights(ours, monai)
        x, modes = _image(request, size), NETWORKS[request["preset"].network].modes
        try:
            theirs = _outputs(request, monai, MONAI, x, modes)
        except Exception as error:
            return {**unable, "monai_reason": one_sentence(error)}
        mine = _outputs(request, ours, OURS, x, modes)
        found = {**compare_outputs(mine, theirs), **compare_gradients(ours, monai), "gradients_in": "float32"}
        if TOLERANCE < found["gradient"] <= KINKS:
            for net, side in ((ours, OURS), (monai, MONAI)):
                net.double().zero_grad(set_to_none=True)
                _outputs(request, net, side, x.double(), ["train"])
            found |= {
                "gradient_float32": found["gradient"],
                **compare_gradients(ours, monai),
                "gradients_in": "float64",
            }
    sentences = []
    if found["output"] > TOLERANCE:
        sentences.append(f"the outputs of {found['output_of']} differ by {found['output']:.1e}")
    if found["gradient"] > TOLERANCE:
        sentences.append(f"the gradients of {found['gradient_of']} differ by {found['gradient']:.1e} of their norm")
    difference = f"with MONAI's weights {' and '.join(sentences)}: not timed." if sentences else ""
    return {"check": found, "difference": difference, "monai_reason": ""}


def _outputs(
    request: Mapping[str, Any], net: nn.Module, side: str, x: torch.Tensor, modes: Sequence[str]
) -> dict[str, list[torch.Tensor]]:
    """The outputs in every mode; the gradients of a loss are left in the parameters."""
    found = {}
    for mode in modes:
        pass_ = _pass({**request, "mode": mode, "precision": "float32"}, net, side, x, keep=True)
        found[mode] = [out.detach().clone() for out in pass_()]
    return found


def compare_outputs(
    mine: Mapping[str, Sequence[torch.Tensor]], theirs: Mapping[str, Sequence[torch.Tensor]]
) -> dict[str, Any]:
    """The largest difference, of outputs beyond 1 as a share of the largest.

    Raises:
        ValueError: for outputs of other shapes.
    """
    found: dict[str, Any] = {"output": 0.0, "output_of": ""}
    for mode, outputs in mine.items():
        shapes = [[list(out.shape) for out in outs] for outs in (outputs, theirs[mode])]
        if shapes[0] != shapes[1]:
            raise ValueError(f"in {mode} ours gives the shapes {shapes[0]}, MONAI's {shapes[1]}.")
        for a, b in zip(outputs, theirs[mode]):
            difference = _number(((a - b).abs().max() / b.abs().max().clamp(min=1)).item())
            if difference > found["output"]:
                found = {"output": difference, "output_of": mode}
    return found


def compare_gradients(ours: nn.Module, monai: nn.Module) -> dict[str, Any]:
    """The largest difference of a tensor's gradients, as a share of their norm (see `FLOOR`)."""
    gradients = {name: parameter.grad for name, parameter in monai.named_parameters()}
    state = {key: value.clone() for key, value in monai.state_dict().items()}
    for name, gradient in gradients.items():
        state[name] = torch.zeros_like(state[name]) if gradient is None else gradient
    # under our names: a state dict of gradients is loaded as one of weights is
    carrier = copy.deepcopy(ours)
    carrier.load_state_dict(state, strict=True)
    wanted = {name: parameter.detach() for name, parameter in carrier.named_parameters()}
    floor = FLOOR * math.sqrt(sum(value.double().square().sum().item() for value in wanted.values()))
    found: dict[str, Any] = {"gradient": 0.0, "gradient_of": ""}
    for name, parameter in ours.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        norm = max(wanted[name].norm().item(), floor, 1e-30)
        difference = _number((gradient - wanted[name]).norm().item() / norm)
        if difference > found["gradient"]:
            found = {"gradient": difference, "gradient_of": name}
    return found


def _number(difference: float) -> float:
    """A number that JSON has and that compares, in place of one that is not finite."""
    return difference if math.isfinite(difference) else 1e300


def measure_memory(request: Mapping[str, Any], give_up: GiveUp) -> dict[str, Any]:
    """The peak of the first pass of one network, after a small one, which loads libraries.

    A compiled network is compiled by a pass before.
    """
    side, device = request["side"], torch.device(request["device"])
    _tiny_pass(request, side)
    size = _size(request)
    net = _build(request, side, size)
    pass_ = _pass(request, net, side, _image(request, size))
    seconds: list[float] = []
    outs: list[Any] = []
    with at_most(request["max_seconds"], give_up):
        if request["compiled"]:
            pass_()
            net.zero_grad(set_to_none=True)
        gc.collect()
        memory, method = peak_memory(lambda: seconds.append(timed(lambda: outs.extend(pass_()), device)), device)
    if not all(out.isfinite().all() for out in outs):
        raise ValueError("it gives numbers that are not finite.")
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return {"parameters": parameters, "memory": memory, "memory_method": method, "seconds": seconds[0]}


def measure_times(request: Mapping[str, Any], give_up: GiveUp) -> dict[str, Any]:
    """Times of both networks in turn, of ours in float32, too, where the precision is lower.

    Args:
        request: "seconds" says of each side that takes part how long a pass takes at first.
        give_up: called where the first passes take too long.
    """
    device, limit, size = torch.device(request["device"]), request["max_seconds"], _size(request)
    _tiny_pass(request, OURS)
    x, reason = _image(request, size), ""
    ours, monai = _build(request, OURS, size), None
    if MONAI in request["seconds"]:
        monai = _build(request, MONAI, size)
        if request["preset"].against == "same":
            load_weights(ours, monai)
    contestants = {OURS: (ours, _pass(request, ours, OURS, x))}
    if monai is not None:
        contestants[MONAI] = (monai, _pass(request, monai, MONAI, x))
    if request["precision"] != "float32":
        contestants["float32"] = (ours, _pass({**request, "precision": "float32"}, ours, OURS, x))
    passes, first = {}, {}
    for name, (net, step) in contestants.items():
        passes[name] = without_gradients(step, [net], device)
        with at_most(limit, give_up):
            try:
                first[name] = passes[name]()
            except Exception as error:
                if name == OURS:
                    raise
                reason = reason or (one_sentence(error) if name == MONAI else "")
                del passes[name]
                net.zero_grad(set_to_none=True)
    if request["compiled"]:  # the first passes compiled
        first = {name: passes[name]() for name in passes}
    seen = time_in_turn(list(passes.values()), list(first.values()), request["repeats"], limit)
    times = {name: own or [first[name]] for name, own in zip(passes, seen)}
    found: dict[str, Any] = {"time": spread(times[OURS]), "cold": not seen[0], "monai_reason": reason}
    if MONAI in times:
        ratios = [a / b for a, b in zip(times[OURS], times[MONAI])]
        found |= {"monai_time": spread(times[MONAI]), "ratio": spread(ratios)}
    if "float32" in times:
        shares = [a / b for a, b in zip(times[OURS], times["float32"])]
        found |= {"float32_time": spread(times["float32"]), "float32_ratio": spread(shares)}
    return found


def load_weights(ours: nn.Module, monai: nn.Module) -> None:
    """MONAI's weights into ours."""
    ours.load_state_dict(monai.state_dict(), strict=True)


def _size(request: Mapping[str, Any]) -> tuple[int, ...]:
    return (request["size"],) * request["preset"].dims


def _build(request: Mapping[str, Any], side: str, size: Sequence[int]) -> nn.Module:
    return build(request["preset"], side, size, request["part"], request["checkpoint"]).to(request["device"])


def _image(request: Mapping[str, Any], size: Sequence[int]) -> torch.Tensor:
    channels = NETWORKS[request["preset"].network].options["in_channels"]
    return torch.randn(request["batch"], channels, *size, device=request["device"])


def _tiny_pass(request: Mapping[str, Any], side: str) -> None:
    window = NETWORKS[request["preset"].network].part == "window"
    small = {**request, "part": min(TINY_WINDOW, request["part"]) if window else request["part"], "compiled": False}
    with contextlib.suppress(Exception):
        size = (64,) + (32,) * (request["preset"].dims - 1) if window else check_size(request["preset"], small["part"])
        net = _build(small, side, size)
        _pass(small, net, side, _image(small, size))()


def _pass(
    request: Mapping[str, Any], net: nn.Module, side: str, x: torch.Tensor, keep: bool = False
) -> Callable[[], list[torch.Tensor]]:
    """A training step without the optimiser, or a forward pass without gradients.

    As in training, parameters are float32 and a lower precision is autocast's. A training step gives its loss, or its
    outputs if they are to be kept, a forward pass its outputs.
    """
    mode, lower = request["mode"], request["precision"] != "float32"
    forward = functools.partial(run, net, side, mode)
    if request["compiled"]:
        torch._dynamo.reset()
        forward = torch.compile(forward)
    autocast = functools.partial(torch.autocast, x.device.type, dtype=torch.bfloat16, enabled=lower)
    targets: list[torch.Tensor] = []

    def train() -> list[torch.Tensor]:
        net.train()
        with autocast():
            outs = forward(x)
        if not targets:
            generator = torch.Generator().manual_seed(1)
            targets.append(torch.randn(outs[0].shape, generator=generator).to(x))
        loss = F.mse_loss(outs[0].to(x.dtype), targets[0])
        loss.backward()
        return outs if keep else [loss.detach()]

    def infer() -> list[torch.Tensor]:
        net.eval()
        with torch.no_grad(), autocast():
            return forward(x)

    return train if mode == "train" else infer


if __name__ == "__main__":
    answer(work)
