"""What handlers that draw a picture of every case share."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from monai_ext.data.case_name import case_name, group_name
from monai_ext.handlers.planes import on_grid_of

__all__ = ["CasePictures"]

_logger = logging.getLogger(__name__)


class CasePictures(ABC):
    """Calls ``draw`` for the cases of an evaluator.

    Looks for ``image``, ``label`` and ``pred`` in the engine's output after postprocessing, then in its batch. Where
    ``Invertd`` brought the prediction back to the grid of the file, the image follows by both affines; a case whose
    image cannot follow has no picture, and one whose reference has another grid a picture without.

    Args:
        folder: where the pictures go, named by their cases.
        max_cases: pictures a run, 0 for all.
        group_key: entry of an item that is added to the name, where a case comes several times.
        image_key: entry to show as the image.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        max_cases: int = 0,
        group_key: str | None = None,
        image_key: str = "image",
    ) -> None:
        self.folder = Path(folder)
        self.max_cases = max_cases
        self.group_key = group_key
        self.image_key = image_key
        self._drawn = 0

    @abstractmethod
    def draw(self, image: Any, label: Any, pred: Any, name: str) -> None:
        """One case, label or pred None where there is none."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _begin(self, _engine: Engine) -> None:
        self._drawn = 0

    def __call__(self, engine: Engine) -> None:
        if not isinstance(engine.state.batch, list) or not isinstance(engine.state.output, list):
            raise ValueError("the evaluator must decollate its batches; leave its option decollate at true.")
        for batch, output in zip(engine.state.batch, engine.state.output):
            if self.max_cases and self._drawn >= self.max_cases:
                return
            image, label, pred = (output.get(key, batch.get(key)) for key in (self.image_key, "label", "pred"))
            target = pred if pred is not None else label
            name = case_name(image if image is not None else target, f"rank{idist.get_rank()}_{self._drawn}")
            if self.group_key is not None:
                name = f"{name}_{self.group_key}_{group_name(batch, self.group_key)}"
            shown = on_grid_of(image, target)
            if shown is None:
                _logger.warning("%s: no picture, the image's grid is not that of the prediction.", name)
                continue
            reference = None if label is None else self.reference(label, target)
            if reference is None and label is not None:
                _logger.warning("%s: no reference in the picture, its grid is not that of the prediction.", name)
            self.draw(shown, reference, pred, name)
            self._drawn += 1

    def reference(self, label: Any, target: Any) -> Any:
        """The reference on the grid of the target, None where that cannot be had; classes are not resampled."""
        return label if label.shape[1:] == target.shape[1:] else None
