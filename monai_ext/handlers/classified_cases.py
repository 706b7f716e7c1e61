"""What an evaluator said about every case, gathered for tables and pictures."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather

from monai_ext.data.case_name import file_of, names_of, stem
from monai_ext.handlers.class_metrics import probabilities, reference_of

__all__ = ["ClassifiedCase", "ClassifiedCases"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassifiedCase:
    """A case with the probability of each class; `label` is None where no reference is known.

    `group` is what is not independent: the picture that several boxes were cut out of, else the case itself.
    """

    case: str
    file: str
    group: str
    probability: tuple[float, ...]
    label: int | None = None
    box: tuple[int, ...] | None = None

    @property
    def prediction(self) -> int:
        return int(np.argmax(self.probability))

    @property
    def right(self) -> bool | None:
        return None if self.label is None else self.prediction == self.label


class ClassifiedCases(ABC):
    """Calls ``finish`` with all cases of an evaluator's epoch, in the first process.

    Takes ``pred`` (logits or probabilities) and ``label`` from the engine's output after postprocessing, then from
    its batch; ``case``, ``group`` and ``box`` are entries of an item, if it has them, else the file (and the box)
    names the case.

    Args:
        class_names: names of all classes in the order of the network's outputs.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = list(class_names)
        if len(self.class_names) < 2:
            raise ValueError(f"class_names must name at least two classes, got {self.class_names}.")
        self._cases: list[ClassifiedCase] = []

    @abstractmethod
    def finish(self, cases: list[ClassifiedCase]) -> None:
        """All cases, sorted by name."""

    def seen(self, case: ClassifiedCase, item: Mapping[Any, Any]) -> None:  # noqa: B027 (tables need not look)
        """One case as it comes by, with the item that the network saw."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def begin(self, _engine: Engine) -> None:
        self._cases = []

    def _add(self, engine: Engine) -> None:
        if not isinstance(engine.state.batch, list) or not isinstance(engine.state.output, list):
            raise ValueError("the evaluator must decollate its batches; leave its option decollate at true.")
        for batch, output in zip(engine.state.batch, engine.state.output):
            case = self._case({**batch, **output})
            self._cases.append(case)
            self.seen(case, {**batch, **output})

    def _case(self, item: Mapping[Any, Any]) -> ClassifiedCase:
        probability = tuple(probabilities(item["pred"]).tolist())
        if len(probability) != len(self.class_names):
            raise ValueError(
                f"the network gives {len(probability)} classes, class_names are {', '.join(self.class_names)}."
            )
        file = file_of(item["image"]) or f"case_{len(self._cases)}"
        case, label, box = item.get("case"), item.get("label"), item.get("box")
        if label is not None:
            label = reference_of(label, len(probability))
        group = item.get("group") or case or file
        if box is not None:
            box = tuple(int(value) for value in torch.as_tensor(box).reshape(-1))
            case = case or "_".join(map(str, (stem(file), *box)))
        return ClassifiedCase(case or file, file, group, probability, label, box)

    def __call__(self, engine: Engine) -> None:
        cases = self._cases
        if idist.get_world_size() > 1:
            gathered = string_list_all_gather([json.dumps(asdict(case)) for case in cases])
            cases = [ClassifiedCase(**json.loads(text)) for text in gathered]
        if idist.get_rank() > 0:
            return
        named = _named(list({(case.file, case.case): case for case in cases}.values()))  # a sampler repeats cases
        if any(case.label is None for case in named) and any(case.label is not None for case in named):
            _logger.warning("Some cases have no reference: they are in the table, but not in the metrics.")
        self.finish(sorted(named, key=lambda case: case.case))


def _named(cases: list[ClassifiedCase]) -> list[ClassifiedCase]:
    """With names that differ: more of its file's path for each whose name others share."""
    unnamed = names_of([case.file for case in cases if case.case == case.file])
    plain = [unnamed.get(case.case, case.case) for case in cases]
    names = plain
    for longer in (lambda file: Path(file).parent.name, str):
        counts = Counter(names)
        longs = [f"{longer(case.file)}/{name}" for case, name in zip(cases, plain)]
        names = [long if counts[name] > 1 else name for name, long in zip(names, longs)]
    return [replace(case, case=name) for case, name in zip(cases, names)]
