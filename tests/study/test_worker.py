"""Trials in processes of their own: trained, judged, failed with a reason, killed and taken up again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_ext.study.listing import status_table
from monai_ext.study.prepare import prepare
from monai_ext.study.records import content_of, describe
from monai_ext.study.report import write_report
from monai_ext.study.storage import Storage
from monai_ext.study.worker import Worker
from tests.study.toy import write_study

ONE = {"axes": {"mixer": ["seqnorm"]}, "repeats": 0}


def open_study(file: Path) -> tuple[Worker, Storage]:
    """A worker for all trials of a study, which wait."""
    prepared = prepare(str(file))
    storage = Storage(prepared.config.spec.name, prepared.folder, None, prepared.config.spec.metric.maximize)
    about = describe(prepared.config, prepared.planned)
    storage.remember(about)
    storage.enqueue([trial for trial in prepared.planned if not trial.reason])
    return Worker(prepared.config, storage, about["plan"], 1, lambda record, progress: None), storage


def run(file: Path) -> dict[str, Any]:
    """What the report gets once all trials ran."""
    worker, storage = open_study(file)
    worker.work()
    return content_of(storage)


def folder_of(file: Path) -> Path:
    (folder,) = (file.parent / "out" / "trials").iterdir()
    return folder


def command(file: Path, *words: str) -> subprocess.Popen[bytes]:
    """The command line, as a user starts it."""
    log = file.with_name(f"log_{time.monotonic_ns()}").open("wb")
    line = [sys.executable, "-m", "monai_ext", "study", "run", str(file), *words]
    return subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True, env=dict(os.environ))


def wait_until(happened: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def progress(file: Path) -> dict[str, Any]:
    for path in (file.parent / "out").glob("trials/*/progress.json"):
        return json.loads(path.read_text())
    return {}


@pytest.mark.slow
def test_trials_are_measured_trained_and_judged(tmp_path: Path) -> None:
    content = run(write_study(tmp_path, axes={"mixer": ["softmax"], "patch_size": [4, 2]}))
    assert content["study"] == {
        **{"name": "toy_study", "title": "toy_study", "bundle": "toy", "metric": "accuracy", "maximize": True},
        **{
            "split": "validation",
            "at": "best",
            "trained": True,
            "budget": {"epochs": 3},
            "axes": ["mixer", "patch_size"],
        },
        **{"mixer_axis": "mixer", "seed_axis": None, "context_axis": None, "baseline": "softmax", "tolerance": 0.01},
    }
    assert [trial["context"] for trial in content["trials"]] == [8, 64]
    for trial in content["trials"]:
        assert trial["state"] == "complete" and trial["reason"] == ""
        assert trial["epochs"] == 3 and trial["steps"] == 12 and trial["train_seconds"] > 0
        assert [row["epoch"] for row in trial["history"]] == [1, 2, 3]
        # validated every second epoch, and after the last
        assert [row["value"] is None for row in trial["history"]] == [True, False, False]
        assert trial["value"] == max(row["value"] for row in trial["history"][1:]) > 0.5
        measured = trial["measured"]
        assert measured["step_seconds"]["median"] > measured["inference_seconds"]["median"] > 0
        assert measured["step_memory"] > 0 and measured["batch_size"] == 2
        assert trial["machine"]["device"] == "cpu" and trial["machine"]["threads"] == 1
    folder = tmp_path / "out" / "trials" / content["trials"][0]["key"]
    left = {path.name for path in folder.iterdir()}
    assert not {"training_state.pt", "model.pt"} & left and "log.txt" in left


@pytest.mark.slow
def test_a_study_that_trains_nothing_measures(tmp_path: Path) -> None:
    axes = {"mixer": ["softmax", "seqnorm"]}
    file = write_study(tmp_path, axes=axes, budget=None, train=False, set={"val_interval": 1000})
    worker, storage = open_study(file)
    worker.work()
    trained = write_study(tmp_path / "trained", axes=axes)
    assert not {trial.key for trial in prepare(str(trained)).planned} & set(worker.keys)
    content = content_of(storage)
    assert content["study"]["trained"] is False
    for trial in content["trials"]:
        assert trial["state"] == "complete" and trial["value"] is None and trial["history"] == []
        assert trial["measured"]["step_seconds"]["median"] > 0 and trial["measured"]["epoch_steps"] == 4
        assert not (tmp_path / "out" / "trials" / trial["key"] / "progress.json").exists()
    assert "a training step takes" in status_table(storage.records(), storage.trial_folder)
    (path,) = (path for path in write_report(content, tmp_path / "report") if path.name == "report.md")
    text = path.read_text()
    assert "nothing is trained" in text and "## Accuracy" not in text and "epoch's training steps" in text


@pytest.mark.slow
def test_what_cannot_be_measured_has_failed(tmp_path: Path) -> None:
    fields = {"axes": {"mixer": ["seqnorm"]}, "budget": None, "train": False}
    (trial,) = run(write_study(tmp_path, **fields, set={"loss#_target_": "monai.nothing"}))["trials"]
    assert trial["state"] == "failed" and "monai.nothing" in trial["reason"]


@pytest.mark.slow
def test_the_test_split_and_the_last_value(tmp_path: Path) -> None:
    metric = {"name": "accuracy", "split": "test"}
    (trial,) = run(write_study(tmp_path, **ONE, metric=metric, keep_weights=True))["trials"]
    assert trial["value"] == trial["metrics"]["accuracy"] and 0 <= trial["value"] <= 1 and trial["measured"] is None
    assert (folder_of(tmp_path / "toy.yaml") / "model.pt").is_file()


@pytest.mark.slow
def test_budgets_of_steps_and_minutes(tmp_path: Path) -> None:
    steps = write_study(tmp_path / "steps", **ONE, budget={"steps": 6})
    (trial,) = run(steps)["trials"]
    assert (trial["epochs"], trial["steps"]) == (2, 6)
    assert trial["history"][-1]["value"] is not None
    minutes = write_study(tmp_path / "minutes", **ONE, budget={"minutes": 0.02}, set={"max_epochs": 1000, "pause": 0.1})
    (trial,) = run(minutes)["trials"]
    assert trial["state"] == "complete" and 1.2 <= trial["train_seconds"] < 5 and trial["steps"] < 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"set": {"learning_rate": 1e30}}, "it diverged: the loss is"),
        ({"metric": "dice"}, "metric: no validation gave 'dice'; there are accuracy."),
        ({"set": {"validate#evaluator#_target_": "monai.nothing"}}, "monai.nothing"),
    ],
)
def test_a_failure_has_its_reason(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    (trial,) = run(write_study(tmp_path, **ONE, **fields))["trials"]
    assert trial["state"] == "failed" and said in trial["reason"], trial["reason"]
    assert "\n" not in trial["reason"] and trial["value"] is None


@pytest.mark.slow
def test_a_broken_image_fails_its_trials_and_not_the_study(tmp_path: Path) -> None:
    file = write_study(tmp_path, **ONE)
    image = tmp_path / "data" / "train_3.nii.gz"
    image.write_bytes(image.read_bytes()[:100])
    (trial,) = run(file)["trials"]
    assert trial["state"] == "failed" and "train_3.nii.gz" in trial["reason"], trial["reason"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_a_trial_out_of_memory_fails_and_the_next_runs(tmp_path: Path) -> None:
    # the plan sees what the network takes, not what else a config asks for
    axes = {"size": {"points": {"huge": {"hog": 2**40}, "small": {"hog": 1}}}}
    file = write_study(tmp_path, axes=axes, repeats=0)
    config = tmp_path / "toy" / "configs" / "train.json"
    content = json.loads(config.read_text())
    content["hog"] = 1
    content["initialize"].append("$torch.empty(@hog, dtype=torch.uint8).fill_(1)")
    config.write_text(json.dumps(content))
    huge, small = run(file)["trials"]
    assert (huge["state"], huge["reason"]) == ("failed", "out of memory.")
    assert small["state"] == "complete"


@pytest.mark.slow
def test_a_run_killed_in_an_epoch_goes_on_with_that_epoch(tmp_path: Path) -> None:
    whole = write_study(tmp_path / "whole", **ONE, budget={"epochs": 5})
    (expected,) = run(whole)["trials"]
    file = write_study(tmp_path / "killed", **ONE, budget={"epochs": 5}, set={"pause": 0.3})
    process = command(file)
    wait_until(lambda: len(progress(file).get("history", [])) >= 2 and progress(file)["step"] > 8)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    noted = progress(file)["history"]
    (trial,) = run(file)["trials"]
    assert trial["state"] == "complete" and trial["epochs"] == 5 and trial["steps"] == 20
    assert trial["history"][: len(noted)] == noted
    steps = len((folder_of(file) / "calls.txt").read_text().splitlines())
    assert 20 <= steps <= 20 + 4  # whole epochs are not done again
    assert [row["loss"] for row in trial["history"]] == pytest.approx([row["loss"] for row in expected["history"]])


@pytest.mark.slow
def test_a_bundle_of_other_names_keeps_the_budget_and_its_own_weights(tmp_path: Path) -> None:
    fields = {"axes": {"learning_rate": [0.01]}, "budget": {"epochs": 2}, "input": {"size": [8, 8, 8]}}
    file = write_study(tmp_path, **fields)
    config = tmp_path / "toy" / "configs" / "train.json"
    content = json.loads(config.read_text())
    for name in ("resume", "max_epochs", "output_dir", "model_path", "image_size"):
        del content[name]
    content |= {"epochs": 50, "bundle_root": ".", "ckpt_dir": "$@bundle_root + '/models'"}
    content["network_def"]["img_size"] = [8, 8, 8]
    content["train"]["trainer"]["max_epochs"] = "@epochs"
    content["train"]["inferer"] = {"_target_": "SimpleInferer"}
    del content["train"]["handlers"][2]
    saver = {"_target_": "CheckpointSaver", "save_dir": "@ckpt_dir", "save_dict": {"model": "@network"}}
    content["validate"]["handlers"] = [{**saver, "save_key_metric": True, "key_metric_filename": "model.pt"}]
    config.write_text(json.dumps(content))
    published = tmp_path / "toy" / "models" / "model.pt"
    published.parent.mkdir()
    published.write_bytes(b"published")
    (trial,) = run(file)["trials"]
    assert trial["state"] == "complete", trial["reason"]
    assert trial["epochs"] == 2 and trial["measured"]["batch_size"] == 2
    assert published.read_bytes() == b"published"


@pytest.mark.slow
def test_a_result_that_was_written_before_the_kill_is_adopted(tmp_path: Path) -> None:
    file = write_study(tmp_path, **ONE)
    worker, storage = open_study(file)
    (key,) = worker.keys
    folder = storage.trial_folder(key)
    folder.mkdir(parents=True)
    result = {"status": "complete", "reason": "", "value": 0.125, "metrics": {}, "history": [], "epochs": 3}
    (folder / "result.json").write_text(json.dumps(result))
    worker.work()
    (trial,) = content_of(storage)["trials"]
    assert trial["value"] == 0.125 and not (folder / "request.json").exists()  # nothing was trained


@pytest.mark.slow
def test_two_workers_share_and_a_killed_one_s_trial_is_taken_up(tmp_path: Path) -> None:
    axes = {"mixer": ["seqnorm"], "seed": [0, 1, 2, 3]}
    file = write_study(tmp_path, axes=axes, repeats=0, set={"pause": 0.4})
    first, second = command(file), command(file)
    storage_file = tmp_path / "out" / "study.db"
    wait_until(storage_file.is_file)
    storage = Storage("toy_study", tmp_path / "out")
    wait_until(lambda: sum(record["state"] == "running" for record in storage.records()) == 2)
    hosts = {record["pid"] for record in storage.records() if record["state"] == "running"}
    assert hosts == {first.pid, second.pid}
    wait_until(lambda: any(progress(file).get("history", [])))
    os.killpg(second.pid, signal.SIGKILL)
    second.wait()
    assert first.wait(180) == 0
    records = storage.records()
    assert [record["state"] for record in records] == ["complete"] * 4
    assert len({record["key"] for record in records}) == 4
    complete = [t for t in storage.study.get_trials() if t.state.name == "COMPLETE"]
    assert len(complete) == 4  # none was trained twice to its end


@pytest.mark.slow
def test_two_workers_of_one_command(tmp_path: Path) -> None:
    file = write_study(tmp_path, axes={"mixer": ["softmax"], "seed": [0, 1]}, repeats=0)
    process = command(file, "--workers", "2")
    assert process.wait(180) == 0
    records = Storage("toy_study", tmp_path / "out").records()
    assert [record["state"] for record in records] == ["complete"] * 2
    assert len({record["pid"] for record in records}) == 2


@pytest.mark.slow
def test_workers_end_with_the_command_that_started_them(tmp_path: Path) -> None:
    file = write_study(tmp_path, axes={"mixer": ["seqnorm"], "seed": [0, 1]}, repeats=0, set={"pause": 0.5})
    process = command(file, "--workers", "2")
    wait_until(lambda: bool(progress(file)))
    process.kill()
    process.wait()
    storage = Storage("toy_study", tmp_path / "out")
    wait_until(lambda: storage.revive() == 0 and all(r["state"] == "waiting" for r in storage.records()), 20)


@pytest.mark.slow
def test_several_processes_a_trial(tmp_path: Path) -> None:
    file = write_study(tmp_path, **ONE, processes=2)
    config = tmp_path / "toy" / "configs" / "train.json"
    content = json.loads(config.read_text())
    start = "$torch.distributed.init_process_group('gloo')"
    content["imports"].append("$import os")
    content["initialize"] = [
        start,
        "$open(@output_dir + '/rank_' + os.environ['RANK'], 'w').close()",
        *content["initialize"],
    ]
    content["network"] = {
        "_target_": "torch.nn.parallel.DistributedDataParallel",
        "module": "$@network_def.to(@device)",
    }
    content["finalize"] = ["$torch.distributed.destroy_process_group()"]
    config.write_text(json.dumps(content))
    (trial,) = run(file)["trials"]
    assert trial["state"] == "complete", trial["reason"]
    assert trial["epochs"] == 3
    assert {path.name for path in folder_of(file).glob("rank_*")} == {"rank_0", "rank_1"}
