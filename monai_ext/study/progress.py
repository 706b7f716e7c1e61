"""The display of a running study: a bar of its trials, and how far the present one is."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from monai_ext.bench.report import seconds
from monai_ext.study.storage import Storage
from monai_ext.study.workflow import read_json

ENDED = ("complete", "failed")


class TrialsBar:
    """A bar over the trials; where the output is no terminal, a line for every trial that ends.

    Args:
        storage: of the study.
        keys: of its trials.
        quiet: show nothing: another process does.
    """

    def __init__(self, storage: Storage, keys: Sequence[str], quiet: bool = False) -> None:
        self.storage, self.keys, self.quiet = storage, set(keys), quiet
        self._said: set[str] = set()
        self._looked = 0.0

    def __enter__(self) -> TrialsBar:
        self.bar = tqdm(
            total=len(self.keys),
            desc=self.storage.name,
            unit="trial",
            dynamic_ncols=True,
            disable=self.quiet,
            mininterval=0.2 if sys.stderr.isatty() else 60.0,
        )
        for record in self._records():
            if record["state"] in ENDED:
                self._said.add(record["key"])
        self.bar.update(len(self._said))
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def show(self, record: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        """A trial of this process: its progress, or its end."""
        if "result" in record:
            self._end(record)
        elif "waiting" in progress:
            self._say(f"waiting for {progress['waiting']} of other workers")
        else:
            self._say(describe(record, progress))
        if time.monotonic() - self._looked > 5:
            with contextlib.suppress(Exception):  # a data base that is away for a moment
                self.look(postfix=False)

    def look(self, postfix: bool = True) -> None:
        """Trials of other processes, as the storage has them."""
        self._looked = time.monotonic()
        running = []
        for record in self._records():
            if record["state"] in ENDED and record["key"] not in self._said:
                self._end(record)
            elif record["state"] == "running":
                progress = read_json(self.storage.trial_folder(record["key"]) / "progress.json")
                running.append(describe(record, progress))
        if postfix:
            self._say("; ".join(running))

    def _say(self, text: str) -> None:
        self.bar.set_postfix_str(text, refresh=sys.stderr.isatty())

    def _records(self) -> list[dict[str, Any]]:
        return [record for record in self.storage.records() if record["key"] in self.keys]

    def _end(self, record: Mapping[str, Any]) -> None:
        if record["key"] in self._said:
            return
        self._said.add(record["key"])
        if not self.quiet:
            self.bar.write(f"{name_of(record)}: {how_it_ended(record)}", file=sys.stderr)
        self.bar.update()


def name_of(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {label}" for name, label in record["axes"].items())


def how_it_ended(record: Mapping[str, Any]) -> str:
    """Of a trial that has ended: its value, the time of a step where it was measured only, or why it failed."""
    result = record.get("result") or {}
    if record["state"] == "failed" or result.get("state") == "failed":
        return f"failed: {result.get('reason', '')}"
    if result.get("value") is not None:
        return f"{result['value']:.4f}"
    return f"a training step takes {seconds(result.get('measured') or {}, 'step_seconds')}"


def describe(record: Mapping[str, Any], progress: Mapping[str, Any]) -> str:
    """A trial and how far it is, in a few words."""
    if not progress.get("epoch_length"):
        return f"{name_of(record)}: {'measuring' if progress.get('measuring') else 'starting'}"
    within = progress["step"] - (progress["epoch"] - 1) * progress["epoch_length"]
    share = min(100, max(0, round(100 * within / progress["epoch_length"])))
    loss = f", loss {progress['loss']:.3f}" if progress.get("loss") is not None else ""
    return f"{name_of(record)}: epoch {progress['epoch']}/{progress['max_epochs']} {share} %{loss}"
