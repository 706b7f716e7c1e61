"""A killed and resumed training equals an uninterrupted one, and what is not to be resumed says so."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_ext import files
from monai_ext.handlers import checkpoints, training_state
from monai_ext.handlers.training_log import read_log
from tests.handlers.tiny_run import build
from tests.states import differing

ROOT = Path(__file__).resolve().parents[2]


def scramble() -> None:
    """The random state of a fresh process is not that of the killed one."""
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)


def state_of(folder: Path) -> dict:
    return torch.load(folder / "training_state.pt", weights_only=True)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path, workers: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    build(whole, workers, epoch_level=workers > 0).run()
    program = [sys.executable, "-m", "tests.handlers.tiny_run", str(killed), str(workers)]
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == -signal.SIGKILL, result.stderr
    before = state_of(killed)
    assert before["epoch"] == 2, "killed in epoch 3"
    scramble()
    build(killed, workers, epoch_level=workers > 0, resume=True).run()
    assert differing(state_of(whole), state_of(killed)) == []
    assert differing(*(torch.load(f / "models" / "model.pt", weights_only=True) for f in (whole, killed))) == []
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_log(f / "training_log.csv")]
        for f in (whole, killed)
    ]
    assert rows[0] == rows[1]
    assert [row["epoch"] for row in rows[0]] == ["1", "2", "3", "4"]
    assert (killed / "training_curve.png").read_bytes()[:4] == b"\x89PNG"


def test_epoch_length_beside_the_loaders(tmp_path: Path) -> None:
    """Ignite would carry one iterator over epochs where an epoch is not one pass over the data."""
    for length in (3, 6):
        build(tmp_path / f"a{length}", epoch_length=length, epochs=3).run()
        folder = tmp_path / f"b{length}"
        trainer = build(folder, epoch_length=length, epochs=3)
        stop_after(trainer, 2)
        scramble()
        build(folder, epoch_length=length, epochs=3, resume=True).run()
        assert differing(state_of(tmp_path / f"a{length}"), state_of(folder)) == []


def stop_after(trainer, epoch: int) -> None:
    """Run until an error in the epoch after ``epoch``."""
    from ignite.engine import Events

    @trainer.on(Events.ITERATION_COMPLETED)
    def fail(engine):
        if engine.state.epoch > epoch:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        trainer.run()


def test_without_the_seed_handler_it_would_differ(tmp_path: Path) -> None:
    """The proof above is sharp: transforms without workers are seeded once only."""
    build(tmp_path / "a", seeded=False).run()
    stop_after(build(tmp_path / "b", seeded=False), 2)
    build(tmp_path / "b", seeded=False, resume=True).run()
    assert differing(state_of(tmp_path / "a")["network"], state_of(tmp_path / "b")["network"])


def test_the_state_is_written_after_everything_else(tmp_path: Path) -> None:
    build(tmp_path, epochs=1).run()
    state = state_of(tmp_path)
    assert state["best_metric_epoch"] == 1 and 0 < state["best_metric"] <= 1
    assert state["lr_scheduler"]["last_epoch"] == 4
    assert state["ema"]["schedule_step"] == 4
    assert set(os.listdir(tmp_path)) == {"models", "training_curve.png", "training_log.csv", "training_state.pt"}


def test_a_worse_model_after_resuming_does_not_replace_the_best(tmp_path: Path) -> None:
    build(tmp_path, epochs=1).run()
    state = state_of(tmp_path)
    state["best_metric"] = 2.0  # nothing can be better
    torch.save(state, tmp_path / "training_state.pt")
    best = (tmp_path / "models" / "model.pt").read_bytes()
    build(tmp_path, epochs=2, resume=True).run()
    assert (tmp_path / "models" / "model.pt").read_bytes() == best
    assert state_of(tmp_path)["best_metric"] == 2.0 and state_of(tmp_path)["best_metric_epoch"] == 1


def test_a_complete_run_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build(tmp_path, epochs=1).run()
    before = (tmp_path / "training_state.pt").read_bytes()
    build(tmp_path, epochs=1, resume=True).run()
    assert "complete (1 of 1 epochs)" in caplog.text
    assert (tmp_path / "training_state.pt").read_bytes() == before
    assert len(read_log(tmp_path / "training_log.csv")) == 1


def test_more_epochs_than_planned(tmp_path: Path) -> None:
    """The state says where the schedule stands, the config how long it is."""
    build(tmp_path, epochs=2).run()
    build(tmp_path, epochs=6, resume=True).run()
    assert state_of(tmp_path)["lr_scheduler"]["t_total"] == 6 * 4
    rates = [float(row["learning_rate"]) for row in read_log(tmp_path / "training_log.csv")]
    assert rates[1] < rates[2] > rates[-1]  # it had fallen to its end, and falls to the new one


def test_every_other_epoch_and_the_last(tmp_path: Path) -> None:
    trainer = build(tmp_path, epochs=3, every=2)
    stop_after(trainer, 2)
    assert state_of(tmp_path)["epoch"] == 2
    build(tmp_path, epochs=3, every=2, resume=True).run()
    assert state_of(tmp_path)["epoch"] == 3


@pytest.mark.parametrize("written", [False, True], ids=["before", "after"])
def test_an_interrupt_beside_the_files_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """What an interrupt says of the saved epoch is what the file holds."""

    def interrupted(state: dict, path: Path) -> None:
        if written or state["epoch"] == 1:
            checkpoints.save_checkpoint(state, path)
        if state["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training_state, "save_checkpoint", interrupted)
    trainer = build(tmp_path, epochs=3)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert state_of(tmp_path)["epoch"] == (2 if written else 1)
    assert trainer.state.saved_training_state == (str(tmp_path / "training_state.pt"), state_of(tmp_path)["epoch"])


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing to resume from: there is no .*training_state\.pt"):
        build(tmp_path, resume=True).run()


def test_another_networks_state(tmp_path: Path) -> None:
    build(tmp_path, epochs=1).run()
    with pytest.raises(
        ValueError, match=r"training_state\.pt holds the weights of another network: shapes differ in 0\.w"
    ):
        build(tmp_path, epochs=2, channels=6, resume=True).run()


def test_a_damaged_state(tmp_path: Path) -> None:
    build(tmp_path, epochs=1).run()
    path = tmp_path / "training_state.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"training_state\.pt cannot be read .* truncated"):
        build(tmp_path, epochs=2, resume=True).run()
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="holds no training state"):
        build(tmp_path, epochs=2, resume=True).run()


def test_other_data_or_config(tmp_path: Path) -> None:
    build(tmp_path, epochs=1).run()
    with pytest.raises(ValueError, match="4 iterations an epoch, this one has 3"):
        build(tmp_path, epochs=2, epoch_length=3, resume=True).run()
    state = state_of(tmp_path)
    torch.save({**state, "ema": None}, tmp_path / "training_state.pt")
    with pytest.raises(ValueError, match="has no state of 'ema', unlike this run"):
        build(tmp_path, epochs=2, resume=True).run()


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    checkpoints.save_checkpoint({"a": torch.ones(3)}, path)
    old = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        OSError, match=r"cannot write .*state\.pt \(No space left on device\); the file that was there is kept"
    ):
        checkpoints.save_checkpoint({"a": torch.zeros(3)}, path)
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["state.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_through_torchs_writer() -> None:
    """torch tells of the failed write as a RuntimeError; the operating system's reason is behind it."""
    from monai_ext.files import _disk_error

    with open("/dev/full", "wb", buffering=0) as file, pytest.raises((OSError, RuntimeError)) as caught:
        torch.save({"a": torch.zeros(100_000)}, file)
    assert _disk_error(caught.value).errno == errno.ENOSPC


def test_leftovers_of_a_killed_write_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".training_state.pt.123.tmp").write_bytes(b"half")
    build(tmp_path, epochs=1).run()
    assert not list(tmp_path.glob(".*"))


def test_a_state_of_strange_objects_is_refused() -> None:
    with pytest.raises(TypeError, match=r"state\['a'\]\[0\] is a object"):
        checkpoints.plain_state({"a": [object()]})
