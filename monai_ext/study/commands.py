"""The context-length study: what more context buys on your data, and what it costs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from fire.decorators import SetParseFn

_as_text = SetParseFn(str, "file", "output_dir", "storage", "dataset_dir", "tracking", "results")


@_as_text
def plan(file: str, output_dir: str | None = None, dataset_dir: str | None = None) -> int:
    """Show the trials of a study with tokens, parameters, estimated memory and time; nothing is trained.

    Args:
        file: of the study, or the name of one that comes with the package; `list` names them.
        output_dir: the folder for data and results; as the file says, or study_output/NAME.
        dataset_dir: the folder with the data, in place of what the file or the bundle says.
    """
    from monai_ext.study.listing import plan_table
    from monai_ext.study.prepare import prepare

    prepared = prepare(file, output_dir, dataset_dir)
    print(plan_table(prepared.planned, prepared.device, prepared.config.spec.threads))
    return 0 if any(not trial.reason for trial in prepared.planned) else 1


@_as_text
def run(
    file: str,
    output_dir: str | None = None,
    dataset_dir: str | None = None,
    storage: str | None = None,
    workers: int = 1,
    retry_failed: bool = False,
    tracking: str | None = None,
    worker_of: int | None = None,
) -> int:
    """Train the trials of a study; the same command again goes on where it was stopped.

    Any number of these commands, on any number of machines, share the trials of one storage.

    Args:
        file: of the study, or the name of one that comes with the package; `list` names them.
        output_dir: the folder for data and results; as the file says, or study_output/NAME.
        dataset_dir: the folder with the data, in place of what the file or the bundle says.
        storage: URL of a PostgreSQL or MySQL data base that several machines share; study.db in the folder by default.
        workers: trials at a time on this machine; each takes a GPU of its own where there are several.
        retry_failed: run the trials that failed once more.
        tracking: mlflow logs every trial as a run.
        worker_of: set by the command itself: which of several workers this one is.
    """
    from monai_ext.bench.child import end_with_parent
    from monai_ext.study.listing import dropped_lines, states_line
    from monai_ext.study.plan import keep_known
    from monai_ext.study.prepare import prepare
    from monai_ext.study.progress import TrialsBar
    from monai_ext.study.records import content_of, describe
    from monai_ext.study.storage import Storage
    from monai_ext.study.tracking import TRACKERS, MLflow
    from monai_ext.study.worker import Worker

    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers must be a whole number from 1 on, got {workers!r}.")
    if tracking not in (None, *TRACKERS):
        raise ValueError(f"tracking must be {' or '.join(TRACKERS)}, got {tracking!r}.")
    if worker_of is not None:
        end_with_parent()
    prepared = prepare(file, output_dir, dataset_dir, worker_of, plan_trials=worker_of is None)
    spec, folder = prepared.config.spec, prepared.folder
    store = Storage(spec.name, folder, storage, spec.metric.maximize)
    # what is in the storage stays in the plan, however little memory is free just now
    planned = keep_known(prepared.planned, {record["key"] for record in store.records()})
    about = describe(prepared.config, planned) if worker_of is None else store.recall()
    threads = spec.threads or max(1, _cores() // (workers * spec.processes))
    tracker = MLflow(spec.name, f"sqlite:///{folder / 'mlruns.db'}") if tracking else None
    if worker_of is None:
        store.remember(about)
        store.revive()
        store.enqueue([trial for trial in planned if not trial.reason], retry_failed)
        for line in dropped_lines(planned):
            print(line)
    if not about["plan"]:
        raise ValueError("no trial of this study can run; `plan` shows the reasons.")
    with TrialsBar(store, about["plan"], quiet=worker_of is not None) as bar:
        if workers == 1 or worker_of is not None:

            def show(record: Any, progress: Any) -> None:
                bar.show(record, progress)
                if tracker is not None and "result" in record:
                    tracker.log(record, about["study"])

            Worker(prepared.config, store, about["plan"], threads, show).work()
        else:
            _several(workers, bar, folder)
    if worker_of is not None:
        return 0
    records = [record for record in store.records() if record["key"] in set(about["plan"])]
    if tracker is not None:
        for record in records:
            if "result" in record:
                tracker.log(record, about["study"])
    print(states_line(records))
    _write(content_of(store), folder, _command(file, output_dir, storage))
    return 0 if all(record["state"] == "complete" for record in records) else 1


def _cores() -> int:
    """Cores that this process may use; of a shared node, the job's."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _several(workers: int, bar: Any, folder: Path) -> None:
    """Run workers as processes of their own, which end when this one does."""
    import contextlib

    from monai_ext.bench.child import start_child, why_it_died

    words = sys.argv[1:]
    with contextlib.ExitStack() as stack:
        logs = [folder / f"worker_{i}.log" for i in range(workers)]
        for log in logs:
            log.unlink(missing_ok=True)
        started = [
            stack.enter_context(
                start_child([sys.executable, "-m", "monai_ext", *words, "--worker_of", str(i)], log, os.environ)
            )
            for i, log in enumerate(logs)
        ]
        while any(process.poll() is None for process in started):
            with contextlib.suppress(Exception):  # a data base that is away for a moment
                bar.look()
            time.sleep(1.0)
    for process, log in zip(started, logs):
        if process.returncode:
            print(f"a worker stopped: {why_it_died(process.returncode, log)}", file=sys.stderr)


@_as_text
def status(file: str, output_dir: str | None = None, storage: str | None = None) -> None:
    """Show what is done, running, waiting and failed.

    Args:
        file: of the study, or the name of one that comes with the package.
        output_dir: the folder of the results.
        storage: URL of the data base that the workers share.
    """
    from monai_ext.study.listing import states_line, status_table

    store = _stored(file, output_dir, storage)
    wanted = set(store.recall().get("plan", []))
    records = [record for record in store.records() if record["key"] in wanted]
    print(status_table(records, store.trial_folder))
    print(states_line(records))


@_as_text
def report(
    file: str | None = None,
    output_dir: str | None = None,
    storage: str | None = None,
    results: str | None = None,
) -> int:
    """Write what the trials show: report.md with pictures, tables as CSV, and results.json to rewrite it from.

    Args:
        file: of the study, or the name of one that comes with the package.
        output_dir: the folder of the results; the report is written there.
        storage: URL of the data base that the workers shared.
        results: a results.json in place of the study's trials; the report is written beside it, or to output_dir.
    """
    from monai_ext.study.records import content_of
    from monai_ext.study.report import read_results

    if (file is None) == (results is None):
        raise ValueError("give the study's file, or --results with a results.json.")
    if results is not None:
        content = read_results(results)
        folder = Path(output_dir).expanduser() if output_dir else Path(results).expanduser().absolute().parent
        command = f"python -m monai_ext study report --results {Path(results).name}"
    else:
        store = _stored(str(file), output_dir, storage)
        content, folder, command = content_of(store), store.folder, _command(str(file), output_dir, storage)
    _write(content, folder, command)
    return 0 if any(trial["state"] == "complete" for trial in content["trials"]) else 1


def _command(file: str, output_dir: str | None, storage: str | None) -> str:
    given = {"output_dir": output_dir, "storage": storage and "URL"}
    words = [f"--{name} {value}" for name, value in given.items() if value]
    return " ".join(["python -m monai_ext study report", file, *words])


def _write(content: Any, folder: Path, command: str) -> None:
    from monai_ext.study.report import gist, write_report

    written = write_report(content, folder, command)
    print(gist(content))
    print(f"Written: {', '.join(str(path) for path in written)}")


@_as_text
def measure(
    file: str, output_dir: str | None = None, dataset_dir: str | None = None, storage: str | None = None
) -> None:
    """Measure time and memory of the finished trials again, one after the other, on a machine that does nothing else.

    Figures that were taken while other trials ran beside are replaced; the seed apart, equal trials are measured once.

    Args:
        file: of the study, or the name of one that comes with the package.
        output_dir: the folder of the results.
        dataset_dir: the folder with the data, in place of what the file or the bundle says.
        storage: URL of the data base that the workers shared.
    """
    import json

    from tqdm import tqdm

    from monai_ext.study.prepare import prepare
    from monai_ext.study.progress import name_of
    from monai_ext.study.records import MEASURED_AGAIN
    from monai_ext.study.worker import make_request, measure_apart

    store = _stored(file, output_dir, storage)
    prepared = prepare(file, output_dir, dataset_dir, plan_trials=False)
    spec = prepared.config.spec
    threads = spec.threads or _cores()
    alike: dict[str, list[Any]] = {}
    planned = set(store.recall().get("plan", []))
    for record in store.records():
        if record["state"] == "complete" and record["key"] in planned:
            settings = {name: value for name, value in record["settings"].items() if name != "seed"}
            alike.setdefault(json.dumps(settings, sort_keys=True), []).append(record)
    with tqdm(alike.values(), desc="measure", unit="trial", dynamic_ncols=True) as bar:
        for records in bar:
            bar.set_postfix_str(name_of(records[0]), refresh=sys.stderr.isatty())
            folder = store.trial_folder(records[0]["key"])
            folder.mkdir(parents=True, exist_ok=True)
            found = measure_apart(spec, make_request(prepared.config, records[0]), threads, folder)
            if "step_seconds" not in found:
                bar.write(f"{name_of(records[0])}: {found['reason']}", file=sys.stderr)
                continue
            machine = found.pop("machine")
            for record in records:
                store.remember({MEASURED_AGAIN + record["key"]: {"measured": found, "machine": machine}})
    print(f"report: {_command(file, output_dir, storage)}")


def list_() -> None:
    """List the studies that come with the package."""
    from monai_ext.study.spec import list_plans, load_spec

    for name in list_plans():
        print(f"{name}  {load_spec(name).title}")


def _stored(file: str, output_dir: str | None, storage: str | None) -> Any:
    from monai_ext.study.spec import load_spec
    from monai_ext.study.storage import Storage

    spec = load_spec(file)
    folder = spec.output(output_dir)
    if storage is None and not (folder / "study.db").is_file():
        raise FileNotFoundError(f"there is no study in {folder}: run it first, or say where it is with --output_dir.")
    return Storage(spec.name, folder, storage, spec.metric.maximize)


COMMANDS = {"list": list_, "plan": plan, "run": run, "status": status, "report": report, "measure": measure}
