"""The trials of a study in Optuna's storage, from which any number of workers take them.

A trial of the plan is a waiting trial of Optuna's with its key, axes and settings as user attributes. A worker claims
it, keeps its heartbeat, and ends it as complete or failed, with the result as a user attribute. Whatever two workers
do at the same moment, a key counts once: of several trials with the same key the first that is complete.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from monai_ext.optional import load
from monai_ext.study.plan import Planned

HEARTBEAT_SECONDS, GRACE_SECONDS = 20, 90
# a trial whose worker died is taken up again at most so often
RETRIES = 20
# between the attempts to store a result
RETRY_SECONDS = (1, 5, 30, 120)
STATES = {"WAITING": "waiting", "RUNNING": "running", "COMPLETE": "complete", "FAIL": "failed", "PRUNED": "failed"}
# of several trials with the same key the one that counts
RANK = ("complete", "running", "waiting", "failed")


class Storage:
    """A study in a data base.

    Args:
        name: of the study.
        folder: of the results; holds the data base and one folder a trial.
        url: of a data base in place of ``study.db`` in the folder, such as ``postgresql://user:password@host/base``.
        maximize: whether more of the metric is better.
        grace: seconds without a heartbeat after which a worker counts as dead.

    Raises:
        ImportError: Optuna, or the data base's module, is not installed.
        ValueError: the data base cannot be opened, or has the study in the other direction.
    """

    def __init__(
        self, name: str, folder: Path, url: str | None = None, maximize: bool = True, grace: int = GRACE_SECONDS
    ) -> None:
        self.optuna = load("optuna")
        self.optuna.logging.set_verbosity(self.optuna.logging.ERROR)
        self.name, self.folder = name, folder
        self.local = url is None
        folder.mkdir(parents=True, exist_ok=True)
        self.url = url or f"sqlite:///{folder / 'study.db'}"
        options = {"connect_args": {"timeout": 60}} if self.url.startswith("sqlite") else {"pool_pre_ping": True}
        states = self.optuna.storages
        with warnings.catch_warnings(), self._lock("study"):
            warnings.simplefilter("ignore")
            retry = states.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES)
            try:
                self.backend = states.RDBStorage(
                    self.url,
                    engine_kwargs=options,
                    heartbeat_interval=min(HEARTBEAT_SECONDS, max(1, grace // 4)),
                    grace_period=grace,
                    heartbeat_stale_trial_callback=retry,
                )
                self.study = self.optuna.create_study(
                    storage=self.backend,
                    study_name=name,
                    direction="maximize" if maximize else "minimize",
                    load_if_exists=True,
                )
            except ImportError as error:
                raise ImportError(
                    f"the driver of the data base {_without_password(self.url)} is not installed "
                    f"({error.__cause__ or error}): install it, psycopg[binary] for PostgreSQL or pymysql for MySQL."
                ) from error
            except Exception as error:
                if type(error).__module__.split(".")[0] not in ("sqlalchemy", "optuna", "alembic"):
                    raise
                text = " ".join(str(error).split())[:200]
                raise ValueError(
                    f"the study's data base {_without_password(self.url)} cannot be opened ({text})."
                ) from error

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / f".{name}.lock", timeout=120)

    def enqueue(self, trials: Sequence[Planned], again: bool = False) -> int:
        """Put the trials that are not there yet into the queue; with `again` those that failed, too.

        Returns:
            how many were put there
        """
        with self._lock("study"):
            records = {record["key"]: record for record in self.records()}

            def wanted(key: str) -> bool:
                # one that failed without a result was never judged: it was stopped between two steps of the storage
                failed = key in records and records[key]["state"] == "failed"
                return key not in records or (failed and (again or "result" not in records[key]))

            new = [trial for trial in trials if wanted(trial.key)]
            for trial in new:
                attributes = {
                    "key": trial.key,
                    "axes": dict(trial.axes),
                    "settings": dict(trial.settings),
                    "estimate": trial.estimate.as_dict() if trial.estimate else None,
                }
                waiting = self.optuna.trial.TrialState.WAITING
                self.study.add_trial(self.optuna.trial.create_trial(state=waiting, user_attrs=attributes))
            return len(new)

    def remember(self, about: Mapping[str, Any]) -> None:
        """Store what the study is: for `report` and `status`."""
        for name, value in about.items():
            self.study.set_user_attr(name, value)

    def recall(self) -> dict[str, Any]:
        """What `remember` stored."""
        return dict(self.study.user_attrs)

    def records(self) -> list[dict[str, Any]]:
        """Every key once: number, state, attributes and the values of the epochs, in the order of the queue."""
        by_key: dict[str, dict[str, Any]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            key = trial.user_attrs.get("key")
            if key is None:
                continue
            record = {
                "id": trial._trial_id,
                "number": trial.number,
                "state": STATES[trial.state.name],
                **trial.user_attrs,
                "progress": dict(trial.intermediate_values),
            }
            before = by_key.get(key)
            if before is None or RANK.index(record["state"]) < RANK.index(before["state"]):
                by_key[key] = record
            elif record["state"] == before["state"] == "failed":
                by_key[key] = record  # the last word
        return sorted(by_key.values(), key=lambda record: record["number"])

    @contextlib.contextmanager
    def claim(self, keys: Sequence[str]) -> Iterator[dict[str, Any] | None]:
        """The next trial of the plan that waits, as this worker's own; None where none does.

        On one machine, or one file system, a lock in the trial's folder keeps others away; it is free as soon as its
        worker ends, however it ends. The heartbeat, recorded before the trial counts as running, tells other machines.
        """
        wanted = {key: place for place, key in enumerate(keys)}
        mine = [r for r in self.records() if r["state"] == "waiting" and r["key"] in wanted]
        for record in sorted(mine, key=lambda record: wanted[record["key"]]):
            with self._own(record) as owned:
                if owned:
                    with self._heart(record["id"]):
                        yield record
                    return
        yield None

    @contextlib.contextmanager
    def _own(self, record: Mapping[str, Any]) -> Iterator[bool]:
        folder = self.trial_folder(record["key"])
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            mine = self._set(record["id"], "RUNNING", {})
            if mine:
                for name, value in self._whereabouts().items():
                    self.backend.set_trial_user_attr(record["id"], name, value)
            yield mine
        finally:
            lock.release()

    def _whereabouts(self) -> dict[str, Any]:
        """Whose lock a trial of this process is held by."""
        return {"host": platform.node(), "pid": os.getpid(), "folder": str(self.folder.resolve())}

    def _set(self, trial_id: int, state: str, attributes: Mapping[str, Any]) -> bool:
        """Change a trial's state; False where somebody else was faster."""
        try:
            if state == "RUNNING":
                if self.backend.get_trial(trial_id).state.name != "WAITING":
                    return False
                self.backend.record_heartbeat(trial_id)
            for name, value in attributes.items():
                self.backend.set_trial_user_attr(trial_id, name, value)
            values = [_objective(attributes["result"])] if state == "COMPLETE" else None
            return bool(
                self.backend.set_trial_state_values(trial_id, self.optuna.trial.TrialState[state], values=values)
            )
        except self.optuna.exceptions.UpdateFinishedTrialError:
            return False

    @contextlib.contextmanager
    def _heart(self, trial_id: int) -> Iterator[None]:
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self.backend.get_heartbeat_interval()):
                with contextlib.suppress(Exception):  # a data base that is away for a moment
                    self.backend.record_heartbeat(trial_id)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def note(self, trial_id: int, epoch: int, value: float) -> None:
        """Store the metric of an epoch; it is no loss where the data base is away for a moment."""
        with contextlib.suppress(Exception):
            self.backend.set_trial_intermediate_value(trial_id, epoch, value)

    def end(self, trial_id: int, result: Mapping[str, Any]) -> bool:
        """Store a trial's end; False where it was ended already."""
        complete = result["state"] == "complete"
        for wait in RETRY_SECONDS:  # a data base that is away for a moment takes no result with it
            try:
                return self._set(trial_id, "COMPLETE" if complete else "FAIL", {"result": dict(result)})
            except self.optuna.exceptions.StorageInternalError:
                time.sleep(wait)
        return self._set(trial_id, "COMPLETE" if complete else "FAIL", {"result": dict(result)})

    def give_back(self, record: Mapping[str, Any]) -> None:
        """End a trial that was interrupted, and put it into the queue again."""
        if self._set(record["id"], "FAIL", {}):
            waiting, kept = self.optuna.trial.TrialState.WAITING, ("key", "axes", "settings", "estimate")
            attributes = {name: record.get(name) for name in kept}
            self.study.add_trial(self.optuna.trial.create_trial(state=waiting, user_attrs=attributes))

    def _again(self, trial_id: int) -> None:
        if self._set(trial_id, "FAIL", {}):
            trial = self.backend.get_trial(trial_id)
            self.backend.get_heartbeat_stale_trial_callback()(self.study, trial)

    def revive(self) -> int:
        """Put the trials of dead workers into the queue again.

        Those of this machine are known by the lock that nobody holds, those of others by the heartbeat that stopped.

        Returns:
            how many
        """
        before = sum(record["state"] == "running" for record in self.records())
        with warnings.catch_warnings(), self._lock("study"):
            warnings.simplefilter("ignore")
            self.optuna.storages.fail_stale_trials(self.study)
            for record in self.records():
                here = all(record.get(name) == self._whereabouts()[name] for name in ("host", "folder"))
                if record["state"] == "running" and here:
                    lock = FileLock(self.trial_folder(record["key"]) / ".lock")
                    with contextlib.suppress(Timeout), lock.acquire(timeout=0):
                        self._again(record["id"])
        return before - sum(record["state"] == "running" for record in self.records())

    def trial_folder(self, key: str) -> Path:
        return self.folder / "trials" / key


def _objective(result: Mapping[str, Any]) -> float:
    """What Optuna itself shows of a trial: its value, or the time of a step where it was measured only."""
    return float(result["measured"]["step_seconds"]["median"] if result["value"] is None else result["value"])


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.split('://')[0]}://...@{tail}" if at else url
