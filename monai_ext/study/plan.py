"""The trials of a study, with what each will take, before anything runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from monai_ext.bench.estimate import Estimate, estimate
from monai_ext.bench.measure import kilobytes
from monai_ext.bundle.errors import mistake_in
from monai_ext.study.axes import Label, combinations
from monai_ext.study.bundle_config import BundleConfig

# of a CPU's memory a trial may take this share
MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class Planned:
    """A trial that is to run, or, with a reason, one that cannot.

    Args:
        key: what tells it from any other.
        axes: its label on each axis.
        settings: config ids and what they are set to.
        estimate: of its training step; None where it could not be made.
        steps: training steps in all; None where the data is not there to tell.
        reason: why it is impossible; empty for a trial that runs.
        note: why there is no estimate.
    """

    key: str
    axes: Mapping[str, Label]
    settings: Mapping[str, Any]
    estimate: Estimate | None = None
    steps: int | None = None
    reason: str = ""
    note: str = ""


def free_memory(device: torch.device) -> float:
    """Bytes that a trial may take."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    try:
        return MEMORY_SHARE * 1024 * kilobytes("/proc/meminfo", "MemTotal")
    except (OSError, KeyError):
        return float("inf")


def plan(config: BundleConfig, memory: float, announce: Callable[[int, int], None] | None = None) -> list[Planned]:
    """All trials of a study, in the order in which they run.

    Args:
        config: of the study.
        memory: bytes that a trial may take.
        announce: is told how many trials of how many have been looked at.

    Raises:
        ValueError: an axis or setting that the bundle does not have.
    """
    spec = config.spec
    found, known = [], {}
    chosen = combinations(spec.axes, spec.skip)
    for number, (labels, values) in enumerate(chosen):
        settings = config.settings(spec.axes, values)
        # seeds and the like do not change what a step takes
        alike = json.dumps({name: item for name, item in settings.items() if name != "seed"}, sort_keys=True)
        if alike not in known:
            known[alike] = _look(config, settings, memory)
        found.append(Planned(config.key(settings), labels, settings, **known[alike]))
        runs = not found[-1].reason
        if runs and spec.context_axis is None and (found[-1].estimate is None or found[-1].estimate.context is None):
            why = found[-1].note or "the network has none of this project's mixers"
            raise ValueError(
                f"the context of {labels} is not known ({why}): name the axis whose labels are the context, "
                "context_axis: NAME."
            )
        if announce is not None:
            announce(number + 1, len(chosen))
    return found


def keep_known(planned: Sequence[Planned], known: Container[str]) -> list[Planned]:
    """The plan with those trials that were begun kept in it, though they would not fit here and now."""
    return [dataclasses.replace(trial, reason="") if trial.key in known else trial for trial in planned]


def _look(config: BundleConfig, settings: Mapping[str, Any], memory: float) -> dict[str, Any]:
    try:
        parser = config.parser(settings)
        set_determinism(0)
        network = parser.get_parsed_content(config.network_id())
    except Exception as error:
        return {"reason": _sentence(error)}
    try:
        batch, channels, size = config.image_shape(parser)
    except Exception as error:
        return {"note": f"no estimate: {_sentence(error)}"}
    steps = _steps(config, parser, batch)
    try:
        found = estimate(network, batch, channels, size)
    except ValueError as error:  # our networks say so where they cannot take an image
        return {"reason": _sentence(error)}
    except Exception as error:
        return {"steps": steps, "note": f"no estimate: {_sentence(error)}"}
    reason = ""
    if found.memory > memory:
        reason = f"needs about {found.memory / 2**30:.1f} GiB, and there are {memory / 2**30:.1f} GiB."
    return {"estimate": found, "steps": steps, "reason": reason}


def _steps(config: BundleConfig, parser: ConfigParser, batch: int) -> int | None:
    budget = config.spec.budget
    if not config.spec.train:
        return 0
    if "steps" in budget:
        return int(budget["steps"])
    if "minutes" in budget:
        return None
    try:
        epochs = budget.get("epochs") or parser.get_parsed_content("train#trainer#max_epochs")
        if config.has("iterations"):
            each = parser.get_parsed_content("iterations")
        else:
            cases = len(parser.get_parsed_content("train#dataset#data"))
            each = max(1, cases // batch)
        return int(epochs * each)
    except Exception:  # the data may lie on another machine
        return None


def _sentence(error: BaseException) -> str:
    inner: BaseException | None = error
    while inner is not None:  # MONAI wraps what a class says
        if isinstance(inner, ValueError) and str(inner):
            break
        inner = inner.__cause__
    text = mistake_in(error) or " ".join(str(inner or error).split())
    return text if inner is not None or mistake_in(error) else f"{type(error).__name__}: {text[:300]}"
