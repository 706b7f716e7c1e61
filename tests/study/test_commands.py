"""The command line of the study, as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from monai_ext.__main__ import GROUPS
from monai_ext.cli import main
from monai_ext.study.report import read_results
from tests.study.toy import write_study


def study(*words: str | Path) -> int:
    return main(GROUPS, ["study", *map(str, words)])


def test_plan_shows_every_trial_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_study(tmp_path, axes={"mixer": ["softmax", "softmx"], "patch_size": [4, 2]})
    assert study("plan", file) == 0
    said = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("|")]
    assert rows[0] == ["mixer", "patch_size", "context", "tokens", "parameters", "memory", "step", "training", ""]
    assert rows[2][:4] == ["softmax", "4", "8", "8"] and rows[3][:4] == ["softmax", "2", "64", "64"]
    assert rows[4][-1].startswith("dropped: unknown mixer 'softmx'")
    assert "2 trials to run, 2 dropped; about" in said
    assert not (tmp_path / "out" / "study.db").exists()
    assert study("plan", write_study(tmp_path, axes={"mixer": ["softmx"]})) == 1


def test_mistakes_end_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_study(tmp_path)
    for words, said in (
        (["run", "nothing"], "there is no study file nothing; those of the package are:"),
        (["run", file, "--workers", "0"], "workers must be a whole number from 1 on, got 0."),
        (["run", file, "--tracking", "wandb"], "tracking must be mlflow, got 'wandb'."),
        (["status", file], "there is no study in"),
        (["report"], "give the study's file, or --results"),
        (["report", "--results", tmp_path / "none.json"], "none.json"),
        (["run", write_study(tmp_path, name="none", axes={"mixer": ["softmx"]})], "no trial of this study can run"),
    ):
        assert study(*words) == 1, words
        error = capsys.readouterr().err
        assert said in error and "Traceback" not in error, error


@pytest.mark.slow
def test_run_status_report_and_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_study(tmp_path, axes={"mixer": ["softmax", "softmx"]}, repeats=0)
    out = tmp_path / "out"
    assert study("run", file) == 0
    said = capsys.readouterr()
    assert "dropped: mixer softmx: unknown mixer 'softmx'" in said.out and "1 trial: 1 complete." in said.out
    assert re.search(r"mixer softmax: [01]\.\d{4}", said.err)
    assert {"report.md", "results.json", "trials.csv", "accuracy.png"} <= {path.name for path in out.iterdir()}
    first = (out / "report.md").read_text()
    before = read_results(out / "results.json")["trials"][0]
    assert before["measured"] is None and "unknown mixer 'softmx'" in first

    assert study("run", file) == 0  # nothing is left to do
    assert read_results(out / "results.json")["trials"][0] == before
    assert study("status", file) == 0
    assert "complete | " in capsys.readouterr().out

    assert study("measure", file) == 0
    assert study("report", file) == 0
    after = read_results(out / "results.json")["trials"][0]
    assert after["measured"]["step_seconds"]["median"] > 0 and after["value"] == before["value"]

    other = tmp_path / "other"
    assert study("report", "--results", out / "results.json", "--output_dir", other) == 0
    assert (other / "trials.csv").read_bytes() == (out / "trials.csv").read_bytes()
    assert "report --results results.json" in (other / "report.md").read_text()


@pytest.mark.slow
def test_a_failed_trial_is_told_and_can_be_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_study(tmp_path, axes={"mixer": ["seqnorm"]}, repeats=0)
    image = tmp_path / "data" / "train_0.nii.gz"
    whole = image.read_bytes()
    image.write_bytes(whole[:60])
    assert study("run", file) == 1
    said = capsys.readouterr()
    assert "1 trial: 1 failed." in said.out and "failed: " in said.err and "train_0.nii.gz" in said.err
    assert "train_0.nii.gz" in (tmp_path / "out" / "report.md").read_text()
    image.write_bytes(whole)
    assert study("run", file) == 1  # it stays failed
    assert study("run", file, "--retry_failed") == 0


@pytest.mark.slow
def test_trials_are_logged_in_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed (extra tracking)")
    uri = f"sqlite:///{tmp_path / 'out' / 'mlruns.db'}"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file = write_study(tmp_path, axes={"mixer": ["seqnorm"]}, repeats=0)
    assert study("run", file, "--tracking", "mlflow") == 0
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("toy_study")
    (run,) = client.search_runs([experiment.experiment_id])
    (trial,) = read_results(tmp_path / "out" / "results.json")["trials"]
    assert run.info.status == "FINISHED" and run.data.params["mixer"] == "seqnorm"
    assert run.data.params["context"] == "8" and run.data.metrics["value"] == trial["value"]
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert [round(point.value, 6) for point in history] == [row["loss"] for row in trial["history"]]


def test_mlflow_is_asked_for_by_name_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    assert study("run", write_study(tmp_path), "--tracking", "mlflow") == 1
    assert ".[tracking]" in capsys.readouterr().err


class Client:
    """Stands for MLflow's client: keeps what it is told."""

    def __init__(self, tracking_uri: str) -> None:
        self.uri, self.told = tracking_uri, []

    def __getattr__(self, name: str) -> Any:
        def tell(*args: Any, **kwargs: Any) -> Any:
            self.told.append((name, *args, *kwargs.values()))
            made = any(call[0] == "create_experiment" for call in self.told)
            experiment = type("Experiment", (), {"experiment_id": "7"}) if made else None
            run = type("Run", (), {"info": type("Info", (), {"run_id": "r"})})
            return {"search_runs": [], "get_experiment_by_name": experiment}.get(name, run)

        return tell


def test_what_is_logged_of_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_ext.study import tracking

    monkeypatch.setattr(tracking, "load", lambda _name: type("Module", (), {"MlflowClient": Client}))
    logger = tracking.MLflow("a_study", "sqlite:///x.db")
    result = {
        **{"state": "failed", "reason": "out of memory.", "metrics": {"dice": 0.5}, "value": None},
        "history": [{"epoch": 1, "loss": 0.5, "value": None}, {"epoch": 2, "loss": 0.25, "value": 0.75}],
        "measured": {"step_memory": 8, "step_seconds": {"median": 0.5}},
    }
    record = {"key": "k", "axes": {"mixer": "softmax"}, "estimate": {"context": 64, "flops": 3.0}, "result": result}
    logger.log(json.loads(json.dumps(record)), {"metric": "dice"})
    told = logger.client.told
    assert ("log_param", "r", "mixer", "softmax") in told and ("log_param", "r", "context", 64) in told
    assert ("log_metric", "r", "train_loss", 0.25, 2) in told and ("log_metric", "r", "dice", 0.75, 2) in told
    assert ("log_metric", "r", "step_memory_bytes", 8.0) in told and ("log_metric", "r", "step_seconds", 0.5) in told
    assert ("set_tag", "r", "reason", "out of memory.") in told and told[-1] == ("set_terminated", "r", "FAILED")
