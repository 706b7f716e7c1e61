"""What a user did wrong ends the command in one sentence; everything else stays as it was."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from monai.data import DataLoader, Dataset
from torch import nn

from monai_ext.bundle import errors
from monai_ext.data.transforms import LoadVolumed
from tests.bundle.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_a_truncated_file_ends_the_command_in_one_sentence(tmp_path: Path) -> None:
    command = write_tiny_bundle(tmp_path, workers=1)
    bad = tmp_path / "data" / "label_1.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-40])
    result = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=300
    )
    assert result.returncode == 1
    output = result.stdout + result.stderr
    assert "Traceback" not in output
    *_, sentence, hint = result.stderr.rstrip().splitlines()
    assert re.fullmatch(rf"error: {bad} \(the item's 'label'\) cannot be read as an image: .* data list\.", sentence)
    assert hint == "(set MONAI_EXT_TRACEBACK=1 to see where it comes from)"
    assert output.count("cannot be read") == 1


def test_an_interrupted_training_says_how_to_go_on(tmp_path: Path) -> None:
    command = write_tiny_bundle(tmp_path)
    state = tmp_path / "models" / "training_state.pt"
    process = subprocess.Popen(
        [sys.executable, *command, "--max_epochs", "1000000"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 240
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Traceback" not in output, output
    said = re.search(r"interrupted: the training is saved up to epoch (\d+) in (\S+); .*--resume true", output)
    assert said, output[-500:]
    assert said.group(2) == str(state)
    assert torch.load(state, weights_only=True)["epoch"] == int(said.group(1))


def load_missing(workers: int) -> BaseException:
    loader = DataLoader(Dataset([{"image": "/nowhere/a.nii.gz"}], LoadVolumed("image")), num_workers=workers)
    with pytest.raises(Exception) as caught:
        next(iter(loader))
    return caught.value


@pytest.mark.parametrize("workers", [0, 1])
def test_the_sentence_is_found_in_chains_and_in_workers_texts(workers: int) -> None:
    found = errors.mistake_in(load_missing(workers))
    assert found == "no file /nowhere/a.nii.gz (the item's 'image'); check dataset_dir and the data list."


def test_others_errors_are_no_mistakes() -> None:
    def library() -> None:
        int("x")

    with pytest.raises(ValueError) as caught:
        library()
    assert errors.mistake_in(caught.value) is None
    assert errors.mistake_in(RuntimeError("out of memory")) is None
    assert errors.mistake_in(None) is None


def test_nothing_changes_outside_the_command() -> None:
    hook, factory = sys.excepthook, logging.getLogRecordFactory()
    errors.plain_errors()
    assert sys.excepthook is hook and logging.getLogRecordFactory() is factory


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(errors.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "excepthook", lambda *_: print("former hook", file=sys.stderr))
    factory = logging.getLogRecordFactory()
    errors.plain_errors(always=True)
    errors.plain_errors(always=True)  # twice is once
    yield
    logging.setLogRecordFactory(factory)


def test_the_hook(installed, capsys: pytest.CaptureFixture[str]) -> None:
    error = load_missing(0)
    sys.excepthook(type(error), error, error.__traceback__)
    assert capsys.readouterr().err.startswith("error: no file /nowhere/a.nii.gz")
    sys.excepthook(ZeroDivisionError, ZeroDivisionError(), None)
    assert capsys.readouterr().err == "former hook\n"
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "interrupted.\n"


def test_logs_of_a_mistake_are_dropped_and_others_kept(installed, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("made.later")
    try:
        raise load_missing(0)
    except Exception as error:
        logger.exception("Exception: %s", error)
        logger.error("Engine run is terminating due to exception: x")
        logger.error("another thing")
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        logger.exception("a bug")
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.DEBUG]
    assert told == ["another thing", "a bug"]


def test_the_variable_brings_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = sys.excepthook
    monkeypatch.setenv(errors.VARIABLE, "1")
    errors.plain_errors(always=True)
    assert sys.excepthook is hook


def test_weights(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    path = tmp_path / "model.pt"
    torch.save(network.state_dict(), path)
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    errors.load_weights(other, path)
    assert torch.equal(other[0].weight, network[0].weight)

    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.pt to read the weights from"):
        errors.load_weights(network, tmp_path / "nowhere.pt")
    for content in (path.read_bytes()[:-500], path.read_bytes()[:30], b"", b"no weights at all"):
        (tmp_path / "bad.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.pt cannot be read as weights: it is truncated"):
            errors.load_weights(network, tmp_path / "bad.pt")
    torch.save({"a": Path("x")}, tmp_path / "objects.pt")
    with pytest.raises(ValueError, match="it is no plain state dict"):
        errors.load_weights(network, tmp_path / "objects.pt")
    torch.save({"a": 1}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        errors.load_weights(network, tmp_path / "other.pt")


def test_another_networks_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).state_dict(), path)
    wide = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))
    wide.options = {"feature_size": 8}
    with pytest.raises(ValueError) as caught:
        errors.load_weights(wide, path)
    assert "shapes differ in 0.weight [4, 1, 3, 3] (here [8, 1, 3, 3]), 0.bias [4] (here [8])" in str(caught.value)
    assert "this network: Sequential(feature_size=8)" in str(caught.value)
    with pytest.raises(
        ValueError, match=r"it lacks 2\.weight.*it has the unknown 0\.weight, 0\.bias, 1\.weight and 4 more"
    ):
        errors.load_weights(nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Conv2d(1, 1, 1)), path)
