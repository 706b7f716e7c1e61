"""The queue: every trial once, whoever takes it, and whoever dies.

In SQLite, or in the data base whose URL is in the variable MONAI_EXT_STUDY_DATABASE.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from monai_ext.study.plan import Planned
from monai_ext.study.storage import Storage

RESULT = {"state": "complete", "reason": "", "value": 0.5, "metrics": {"dice": 0.5}}


def trials(count: int) -> list[Planned]:
    return [Planned(f"key{i}", {"seed": i}, {"seed": i}) for i in range(count)]


def keys(count: int) -> list[str]:
    return [trial.key for trial in trials(count)]


def open_storage(folder: Path, **options: Any) -> Storage:
    """A study of the test's own: in its folder, or in the data base that the variable names."""
    return Storage(f"study_{abs(hash(folder))}", folder, os.environ.get("MONAI_EXT_STUDY_DATABASE"), **options)


def states(storage: Storage) -> list[str]:
    return [record["state"] for record in storage.records()]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    found = open_storage(tmp_path / "out")
    found.enqueue(trials(3))
    return found


def test_a_trial_is_put_there_once(storage: Storage) -> None:
    assert storage.enqueue(trials(4)) == 1 and storage.enqueue(trials(4)) == 0
    records = storage.records()
    assert [record["key"] for record in records] == keys(4)
    assert [record["axes"] for record in records] == [{"seed": i} for i in range(4)]
    assert set(states(storage)) == {"waiting"}


def test_a_claim_is_exclusive_and_its_result_is_kept(storage: Storage) -> None:
    other = open_storage(storage.folder)
    with storage.claim(keys(3)) as mine, other.claim(keys(3)) as yours:
        assert mine is not None and yours is not None
        assert (mine["key"], yours["key"]) == ("key0", "key1")
        assert states(storage) == ["running", "running", "waiting"]
        storage.note(mine["id"], 1, 0.25)
        assert storage.end(mine["id"], RESULT) and not storage.end(mine["id"], RESULT)
        other.end(yours["id"], {"state": "failed", "reason": "it diverged."})
    first, second, third = other.records()
    assert (first["state"], first["result"], first["progress"]) == ("complete", RESULT, {1: 0.25})
    assert (second["state"], second["result"]["reason"]) == ("failed", "it diverged.")
    assert third["state"] == "waiting"
    with storage.claim(["key2", "key0"]) as last:
        assert last is not None and last["key"] == "key2"
        storage.end(last["id"], RESULT)
    with storage.claim(keys(3)) as nothing:
        assert nothing is None


def test_the_plan_s_order_is_the_order_of_the_claims(storage: Storage) -> None:
    with storage.claim(["key2", "key1"]) as record:
        assert record is not None and record["key"] == "key2"


def test_a_trial_of_another_plan_is_not_taken(storage: Storage) -> None:
    with storage.claim(["other"]) as record:
        assert record is None


def test_many_workers_never_share_a_trial(tmp_path: Path) -> None:
    open_storage(tmp_path).enqueue(trials(12))
    taken: list[str] = []

    def work() -> None:
        own = open_storage(tmp_path)
        while True:
            with own.claim(keys(12)) as record:
                if record is None:
                    return
                taken.append(record["key"])
                own.end(record["id"], RESULT)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(keys(12))
    assert states(open_storage(tmp_path)) == ["complete"] * 12


def test_a_worker_that_stops_gives_its_trial_back(storage: Storage) -> None:
    with contextlib.suppress(KeyboardInterrupt), storage.claim(keys(3)) as record:
        assert record is not None
        storage.give_back(record)
        raise KeyboardInterrupt
    assert sorted(states(storage)) == ["waiting"] * 3
    assert len(storage.records()) == 3


def test_a_killed_worker_s_trial_is_free_at_once_on_its_machine(storage: Storage, repository: Path) -> None:
    body = f"""
import time
from pathlib import Path
from monai_ext.study.storage import Storage
with Storage({storage.name!r}, Path({str(storage.folder)!r}), {storage.url!r}).claim(["key1"]) as record:
    print(record["key"], flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", body], stdout=subprocess.PIPE, text=True, cwd=repository)
    assert process.stdout is not None and process.stdout.readline().strip() == "key1"
    assert states(storage) == ["waiting", "running", "waiting"]
    assert storage.revive() == 0  # it lives
    assert states(storage)[1] == "running"
    process.kill()
    process.wait()
    assert storage.revive() == 1
    records = storage.records()
    assert sorted(record["key"] for record in records) == keys(3)
    assert {record["state"] for record in records} == {"waiting"}


def test_another_machine_s_trial_is_free_when_its_heart_stops(storage: Storage, monkeypatch: Any) -> None:
    own = open_storage(storage.folder, grace=2)
    monkeypatch.setattr("platform.node", lambda: "far_away")
    with storage.claim(keys(1)) as record:
        assert record is not None
        identity = record["id"]
    monkeypatch.undo()
    assert own.revive() == 0 and states(own)[0] == "running"
    time.sleep(3.5)
    assert own.revive() == 1
    retried = next(record for record in own.records() if record["key"] == "key0")
    assert retried["state"] == "waiting" and retried["id"] != identity
    # the first worker was not dead after all: both finish, one counts
    assert not storage.end(identity, RESULT)
    with own.claim(keys(1)) as again:
        assert again is not None
        own.end(again["id"], {**RESULT, "value": 0.75})
    assert [r["result"]["value"] for r in own.records() if r["key"] == "key0"] == [0.75]


def test_of_two_complete_trials_with_one_key_the_first_counts(storage: Storage) -> None:
    complete = storage.optuna.trial.create_trial(
        value=0.9, user_attrs={"key": "key0", "axes": {"seed": 0}, "settings": {}, "result": {**RESULT, "value": 0.9}}
    )
    storage.study.add_trial(complete)
    storage.study.add_trial(complete)
    records = [record for record in storage.records() if record["key"] == "key0"]
    assert len(records) == 1 and records[0]["state"] == "complete" and records[0]["number"] == 3


def test_failed_trials_run_again_only_where_asked_to(storage: Storage) -> None:
    with storage.claim(keys(1)) as record:
        assert record is not None
        storage.end(record["id"], {"state": "failed", "reason": "broken."})
    assert storage.enqueue(trials(3)) == 0
    assert storage.enqueue(trials(3), again=True) == 1
    assert states(storage) == ["waiting"] * 3


def test_a_trial_that_ended_without_a_result_is_put_there_again(storage: Storage) -> None:
    with storage.claim(keys(1)) as record:
        assert record is not None
        storage._set(record["id"], "FAIL", {})  # killed before its copy was put into the queue
    assert states(storage)[0] == "failed"
    assert storage.enqueue(trials(3)) == 1 and states(storage) == ["waiting"] * 3


def test_a_worker_with_another_folder_takes_nobody_s_trial(storage: Storage, tmp_path: Path) -> None:
    other = Storage(storage.name, tmp_path / "elsewhere", storage.url)
    with storage.claim(keys(1)) as record:
        assert record is not None
        assert other.revive() == 0 and states(other)[0] == "running"


def test_what_the_study_is_is_remembered(storage: Storage) -> None:
    storage.remember({"study": {"name": "a_study"}, "plan": keys(3)})
    assert open_storage(storage.folder).recall() == {"study": {"name": "a_study"}, "plan": keys(3)}


def test_a_data_base_that_cannot_be_opened_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data base sqlite:////nowhere/study\.db cannot be opened"):
        Storage("a_study", tmp_path, "sqlite:////nowhere/study.db")
    with pytest.raises((ValueError, ImportError)) as failure:
        Storage("a_study", tmp_path, "postgresql://me:secret@127.0.0.1:1/base")
    assert "secret" not in str(failure.value)
