"""A worker: takes trial after trial from the storage and runs each in processes of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ext.bench.child import FAILED, MEASURED, environment, run_child, start_child, why_it_died
from monai_ext.study.bundle_config import BundleConfig
from monai_ext.study.spec import Spec
from monai_ext.study.storage import Storage
from monai_ext.study.trial import COMPLETE, STATE
from monai_ext.study.workflow import read_json, write_json

# between two looks at a trial's progress, and at what other workers do
POLL_SECONDS, WAIT_SECONDS = 0.5, 5.0
# what measuring may take, in units of the limit for one pass: loading, and the passes of both parts
MEASURING = 14
HISTORY = 500

Show = Callable[[Mapping[str, Any], Mapping[str, Any]], None]


class Worker:
    """Runs the trials of a study until none is left.

    Args:
        config: of the study.
        storage: of its trials.
        keys: of the trials, in their order.
        threads: of each training.
        show: is told the trial and its progress, again and again, and its result at last.
    """

    def __init__(self, config: BundleConfig, storage: Storage, keys: Sequence[str], threads: int, show: Show) -> None:
        self.config, self.storage, self.keys, self.threads, self.show = config, storage, keys, threads, show

    def work(self) -> None:
        """Run what waits; wait for what other workers run, and take it up where they die."""
        while True:
            self.storage.revive()
            with self.storage.claim(self.keys) as record:
                if record is not None:
                    self._run(record)
                    continue
            running = [
                r for r in self.storage.records() if r["state"] in ("running", "waiting") and r["key"] in self.keys
            ]
            if not running:
                return
            self.show(running[0], {"waiting": len(running)})
            time.sleep(WAIT_SECONDS)

    def _run(self, record: dict[str, Any]) -> None:
        folder = self.storage.trial_folder(record["key"])
        try:
            result = self._result(record, folder)
        except BaseException:
            self.storage.give_back(record)
            raise
        if self.storage.end(record["id"], result):  # else it was given to somebody else in the meantime
            self._tidy(folder, result)
            self.show({**record, "result": result}, {})

    def _result(self, record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        done = read_json(folder / "result.json")
        if done.get("status") != COMPLETE:  # else a worker died before it could tell
            request = make_request(self.config, record)
            (folder / "result.json").unlink(missing_ok=True)
            request["measured"] = self._measured(request, folder, record)
            write_json(folder / "request.json", request)
            done = self._train(record, folder) if self.config.spec.train else _only_measured(request["measured"])
        measured = read_json(folder / "measured.json")
        machine = measured.pop("machine", None)
        done["state"] = "complete" if done.pop("status") == COMPLETE else "failed"
        done["history"] = _thin(done.get("history", []))
        return {**done, "measured": measured if measured.get("step_seconds") else None, "machine": machine}

    def _measured(self, request: Mapping[str, Any], folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
        path = folder / "measured.json"
        if not path.is_file() and self.config.spec.repeats:
            self.show(record, {"measuring": True})
            write_json(path, measure_apart(self.config.spec, request, self.threads, folder))
        return read_json(path)

    def _train(self, record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        log, noted = folder / "log.txt", 0
        command = [sys.executable, "-m", "monai_ext.study.trial", str(folder)]
        if self.config.spec.processes > 1:
            count = f"--nproc_per_node={self.config.spec.processes}"
            command[1:2] = ["-m", "torch.distributed.run", "--standalone", count, "-m"]
        variables = environment(self.threads, self.config.spec.allocator)
        start = log.stat().st_size if log.is_file() else 0
        with start_child(command, log, variables) as process:
            while True:
                code = process.poll()
                progress = read_json(folder / "progress.json")
                for row in progress.get("history", [])[noted:]:
                    noted += 1
                    if row["value"] is not None:
                        self.storage.note(record["id"], row["epoch"], row["value"])
                if code is not None:
                    break
                self.show(record, progress)
                time.sleep(POLL_SECONDS)
        done = read_json(folder / "result.json")
        return done or {"status": "failed", "reason": why_it_died(code, _since(log, start))}

    def _tidy(self, folder: Path, result: Mapping[str, Any]) -> None:
        """Keep what tells how it went; a failed trial begins afresh if it is run again."""
        (folder / STATE).unlink(missing_ok=True)
        for events in folder.glob("events.out.tfevents.*"):
            events.unlink()
        if result["state"] != "complete":
            (folder / "result.json").unlink(missing_ok=True)
            (folder / "measured.json").unlink(missing_ok=True)
        if not self.config.spec.keep_weights:
            (folder / "model.pt").unlink(missing_ok=True)
            shutil.rmtree(folder / "test", ignore_errors=True)


def _only_measured(found: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a trial that is not trained: complete once a training step was measured."""
    done = bool(found.get("step_seconds"))
    reason = "" if done else found.get("reason") or "the training step was not measured."
    return {"status": COMPLETE if done else FAILED, "reason": reason, "value": None}


def _thin(history: list[Any]) -> list[Any]:
    """At most so many epochs as a data base's text holds."""
    step = -(-len(history) // HISTORY) or 1
    return [row for i, row in enumerate(history) if (len(history) - 1 - i) % step == 0]


def make_request(config: BundleConfig, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial's processes are told."""
    spec = config.spec
    return {
        "key": record["key"],
        "root": str(spec.bundle) if spec.bundle else None,
        "config_files": [str(file) for file in spec.config_files],
        "evaluate_files": [str(file) for file in spec.evaluate_files],
        "places": config.places(),
        "settings": {**spec.settings, **record["settings"]},
        "val_interval": config.get("val_interval"),
        "budget": dict(spec.budget),
        "metric": vars(spec.metric),
        "repeats": max(1, spec.repeats),
        "max_seconds": spec.max_seconds,
    }


def measure_apart(spec: Spec, request: Mapping[str, Any], threads: int, folder: Path) -> dict[str, Any]:
    """Time and memory of a trial, found in a fresh process; with the reason where a figure is missing."""
    partial = folder / "measured_step.json"
    partial.unlink(missing_ok=True)
    with _lone_process() if spec.processes > 1 else contextlib.nullcontext():
        found = run_child(
            "monai_ext.study.measure",
            {**request, "partial": str(partial)},
            threads=threads,
            allocator="default",
            seconds=MEASURING * spec.max_seconds,
        )
    step = read_json(partial)
    partial.unlink(missing_ok=True)
    return found if found.pop("status") == MEASURED else {**step, "reason": found["reason"]}


def _since(log: Path, start: int) -> Path:
    """The log's part that the last process wrote, as a file beside it."""
    path = log.with_name("last_log.txt")
    with log.open("rb") as file:
        file.seek(start)
        path.write_bytes(file.read())
    return path


@contextlib.contextmanager
def _lone_process() -> Iterator[None]:
    """A config for several processes runs in one, too, where the variables say that there is one."""
    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
