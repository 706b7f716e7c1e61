"""Trials in MLflow, one run each."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from monai_ext.optional import load

TRACKERS = ("mlflow",)


class MLflow:
    """Logs every finished trial as a run of an experiment with the study's name.

    Where to is MLflow's own setting, the variable ``MLFLOW_TRACKING_URI``; else the folder's ``mlruns.db``.

    Args:
        name: of the study.
        uri: used where the variable is not set.

    Raises:
        ImportError: MLflow is not installed.
    """

    def __init__(self, name: str, uri: str) -> None:
        self.mlflow = load("mlflow")
        self.client = self.mlflow.MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or uri)
        found = self.client.get_experiment_by_name(name)
        if found is None:
            with contextlib.suppress(Exception):  # another worker was faster
                self.client.create_experiment(name)
            found = self.client.get_experiment_by_name(name)
        self.experiment = found.experiment_id

    def log(self, record: Mapping[str, Any], study: Mapping[str, Any]) -> None:
        """Log a trial that has ended; one that is logged already is left as it is.

        A server that does not answer is no reason to stop: a warning is printed, and `run` logs it at the end.
        """
        try:
            self._log(record, study)
        except Exception as error:
            print(f"MLflow: {record['key']} is not logged ({' '.join(str(error).split())[:200]}).", file=sys.stderr)

    def _log(self, record: Mapping[str, Any], study: Mapping[str, Any]) -> None:
        key, result = record["key"], record["result"]
        there = self.client.search_runs([self.experiment], f"tags.trial = '{key}'")
        if any(run.info.status in ("FINISHED", "FAILED") for run in there):
            return
        run = self.client.create_run(self.experiment, tags={"trial": key}, run_name=_name(record)).info.run_id
        for name, label in record["axes"].items():
            self.client.log_param(run, _plain(name), label)
        for name, value in (record.get("estimate") or {}).items():
            if name in ("context", "tokens", "parameters") and value is not None:
                self.client.log_param(run, name, value)
        for row in result.get("history", []):
            for name, value in (("train_loss", row["loss"]), (study["metric"], row["value"])):
                if value is not None:
                    self.client.log_metric(run, _plain(name), value, step=row["epoch"])
        for name, value in _figures(result).items():
            self.client.log_metric(run, _plain(name), value)
        if result["reason"]:
            self.client.set_tag(run, "reason", result["reason"])
        self.client.set_terminated(run, "FINISHED" if result["state"] == "complete" else "FAILED")


def _name(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {label}" for name, label in record["axes"].items())


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)


def _figures(result: Mapping[str, Any]) -> dict[str, float]:
    measured = result.get("measured") or {}
    found = {f"final/{name}": value for name, value in result.get("metrics", {}).items()}
    found |= {"value": result.get("value"), "train_seconds": result.get("train_seconds")}
    for part in ("step", "inference"):
        found[f"{part}_memory_bytes"] = measured.get(f"{part}_memory")
        found[f"{part}_seconds"] = (measured.get(f"{part}_seconds") or {}).get("median")
    return {name: float(value) for name, value in found.items() if value is not None}
