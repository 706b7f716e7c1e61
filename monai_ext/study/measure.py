"""Time and memory of a trial's training step and inference, in the fresh process that the worker gives to it."""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import gc
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.engines import SupervisedEvaluator, SupervisedTrainer

from monai_ext.bench.child import GiveUp, answer, at_most, guard_memory
from monai_ext.bench.measure import machine, peak_memory, spread, time_in_turn, timed
from monai_ext.study.workflow import (
    EVALUATOR,
    TRAINER,
    epoch_length,
    load_config,
    open_workflow,
    places_in,
    quiet,
    write_json,
)

# a first pass on a crop of this size loads libraries, which would count as the step's memory
TINY = 32
# where the config names no batch size
DEFAULT_BATCH = 8


def measure(request: Mapping[str, Any], give_up: GiveUp) -> dict[str, Any]:
    """Measure one training step on the first batch, and the inference of the first validation case.

    The dataset is cut to what one batch needs; networks, losses, optimizers and inferers are the config's own. The
    peak memory is that of the first step, gradients and the optimizer's averages included.
    """
    guard_memory()
    quiet()
    limit, repeats = request["max_seconds"], request["repeats"]
    elsewhere = tempfile.mkdtemp(dir=Path(request["partial"]).parent)  # handlers may write as soon as they are built
    atexit.register(shutil.rmtree, elsewhere, ignore_errors=True)
    workflow = open_workflow(request, {**_few(request), **places_in(Path(elsewhere)), "num_workers": 0})
    parser = workflow.parser
    with at_most(10 * limit, give_up, "loading one batch"):
        workflow.initialize()
        trainer = parser.get_parsed_content(TRAINER)
        batch = next(iter(trainer.data_loader))
    device = torch.device(trainer.state.device)
    found: dict[str, Any] = {"machine": machine(device, torch.get_num_threads())}
    image, label = trainer.prepare_batch(batch, device, False)[:2]
    found["batch_size"] = len(image)
    with contextlib.suppress(Exception):  # a dataset that makes its own cases
        found["epoch_steps"] = epoch_length(request)
    _tiny_step(trainer, image)
    step = _training_step(trainer, image, label)
    found |= _part("step", step, device, limit, repeats, give_up)
    write_json(Path(request["partial"]), found)  # it counts, too, where the inference takes too long
    trainer.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    evaluator = parser.get_parsed_content(EVALUATOR)
    case = next(iter(evaluator.data_loader))
    run = _inference(evaluator, evaluator.prepare_batch(case, device, False)[0])
    return found | _part("inference", run, device, limit, repeats, give_up)


def _part(
    name: str, step: Callable[[], object], device: torch.device, limit: float, repeats: int, give_up: GiveUp
) -> dict[str, Any]:
    seconds: list[float] = []
    with at_most(limit, give_up, "one pass"):
        memory, method = peak_memory(lambda: seconds.append(timed(step, device)), device)
    times = time_in_turn([lambda: timed(step, device)], seconds, repeats, limit)[0] or seconds
    return {f"{name}_seconds": spread(times), f"{name}_memory": memory, "memory_method": method}


def _few(request: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that cut both datasets to what is looked at."""
    parser = ConfigParser(load_config(request))
    parser.update(pairs=dict(request["settings"]))
    found: dict[str, Any] = {}
    batch = _batch(parser)
    for dataset, count in (("train#dataset#data", batch), ("validate#dataset#data", 1)):
        data = parser.get(dataset)
        if isinstance(data, str) and data.startswith("$"):
            found[dataset] = f"$({data[1:]})[:{count}]"
        elif isinstance(data, str) and data.startswith("@"):
            found[dataset] = f"${data}[:{count}]"
        elif isinstance(data, Sequence) and isinstance(count, int):
            found[dataset] = list(data[:count])
    return found


def _batch(parser: ConfigParser) -> int:
    for name in ("train#dataloader#batch_size", "batch_size"):
        if name in parser:
            return int(parser.get_parsed_content(name))
    return DEFAULT_BATCH


def _tiny_step(trainer: SupervisedTrainer, image: torch.Tensor) -> None:
    with contextlib.suppress(Exception):
        network = copy.deepcopy(trainer.network)
        small = image[(slice(0, 2), slice(None), *(slice(0, TINY) for _ in image.shape[2:]))]
        out = trainer.inferer(small, network)
        torch.as_tensor(out[0] if isinstance(out, (list, tuple)) else out).float().mean().backward()


def _training_step(trainer: SupervisedTrainer, image: torch.Tensor, label: Any) -> Callable[[], None]:
    amp = functools.partial(torch.autocast, "cuda", enabled=bool(getattr(trainer, "amp", False)))  # as MONAI's engines

    def step() -> None:
        trainer.network.train()
        trainer.optimizer.zero_grad(set_to_none=True)
        with amp():
            loss = trainer.loss_function(trainer.inferer(image, trainer.network), label)
        loss.mean().backward()
        trainer.optimizer.step()

    return step


def _inference(evaluator: SupervisedEvaluator, image: torch.Tensor) -> Callable[[], None]:
    network = evaluator.network

    def run() -> None:
        network.eval()
        with torch.no_grad(), torch.autocast("cuda", enabled=bool(getattr(evaluator, "amp", False))):
            evaluator.inferer(image, network)

    return run


def work(request: dict[str, Any], give_up: GiveUp) -> dict[str, Any]:
    began = time.perf_counter()
    found = measure(request, give_up)
    return {**found, "seconds": round(time.perf_counter() - began, 2)}


if __name__ == "__main__":
    answer(work)
