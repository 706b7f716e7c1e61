"""A bundle from someone's own images: look, choose, write."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from monai_ext.bundle.choose import Request, choose
from monai_ext.bundle.configs import Bundle
from monai_ext.bundle.memory import bytes_of, machine_memory
from monai_ext.bundle.pairing import Case, Pairs, folder_of_images, pair_files
from monai_ext.bundle.readme import data_license, data_remarks, facts, readme
from monai_ext.bundle.sources import cases_of_datalist, cases_of_folders, cases_of_table, names_from_description
from monai_ext.bundle.splits import split_cases
from monai_ext.bundle.survey import Survey, survey
from monai_ext.bundle.write import common_folder, data_list, write_bundle
from monai_ext.data.check_case import Finding
from monai_ext.mixers import MIXERS

TASKS = ("segmentation", "denoising", "classification")
DEVICES = ("cpu", "cuda")
SHOWN = 20  # findings of a kind that the report prints


@dataclass(frozen=True)
class Source:
    """Where the data are; paths as the user gave them."""

    images: str | None
    labels: str | None = None
    labels_csv: str | None = None
    datalist: str | None = None
    label_suffix: str | None = None
    class_names: str | None = None
    dims: int | None = None


@dataclass(frozen=True)
class Made:
    """What `new_bundle` did: `root` is None where problems kept it from writing."""

    report: str
    root: Path | None


def new_bundle(
    name: str,
    task: str,
    source: Source,
    out: str = ".",
    memory: str | None = None,
    mixer: str = "softmax",
    device: str | None = None,
    seed: int = 0,
    sample: int = 200,
    leave_out: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Made:
    """Look at the data and write a bundle, unless something prevents training.

    Args:
        name: of the bundle's folder; the task is put behind where it is not in it.
        task: segmentation, denoising or classification.
        source: where the data are.
        out: the folder that the bundle's folder goes into.
        memory: such as 8GB; the device's own if None.
        mixer: a name of `MIXERS`.
        device: cpu or cuda, what to plan for; the machine's own if None.
        seed: of the split, of the sample and of the training.
        sample: images of which the voxels are read.
        leave_out: go on without the cases that have problems.
        overwrite: replace the configs of a bundle that is there.
        progress: show progress bars.

    Raises:
        ValueError, FileNotFoundError: an option, or the data as a whole, cannot be used.
    """
    _check(task, mixer, device, source)
    if sample < 1:
        raise ValueError(f"--sample must be at least 1 image, got {sample}.")
    folder_name, remark = bundle_name(name, task)
    root = (Path(out).expanduser() / folder_name).resolve()
    if root.exists() and not overwrite:
        raise ValueError(
            f"{root} is there already; give another name or --out, or --overwrite to write its configs anew."
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    budget = bytes_of(memory) if memory is not None else machine_memory(torch.device(device))
    pairs = find_cases(task, source)
    found = survey(pairs.cases, task, source.dims, sample, seed, progress)
    found.findings = [*pairs.findings, *found.findings]
    doubtful = {finding.case for finding in pairs.findings if not finding.warning}
    sound = [(case, header) for case, header in zip(found.cases, found.headers) if case.name not in doubtful]
    found.cases, found.headers = [case for case, _ in sound], [header for _, header in sound]
    if leave_out:
        found.findings = [
            Finding(f.case, f.kind, f"left out: {f.message}", True) if not f.warning and f.case in _names(pairs) else f
            for f in found.findings
        ]
    paired = task != "denoising" or any(isinstance(case.label, Path) for case in pairs.cases)
    labelled = [case for case in found.cases if case.label is not None] if paired else found.cases
    names = _class_names(task, found, pairs, source)
    found.findings += _general(task, found, pairs, labelled, names, paired)
    if found.problems:
        return Made(_report(found.findings, [], f"nothing is written: {len(found.problems)} problem(s)"), None)
    splits = split_cases(labelled, seed, by_class=task == "classification")
    request = Request(task, budget, device, mixer, seed)
    plan = choose(found, request, names, Counter(splits.values())["train"])
    split = "test" if "test" in splits.values() else "validation"
    bundle = Bundle(folder_name, root, task, found, plan, seed, split, paired)
    found.findings += data_remarks(bundle, splits)
    total = len(pairs.cases)
    texts = {
        "docs/README.md": readme(bundle, pairs, splits, total, found.findings),
        "docs/data_license.txt": data_license(),
    }
    write_bundle(bundle, data_list(bundle, common_folder(found.cases), splits), texts, overwrite)
    lines = facts(bundle, pairs, splits, total)
    lines += [f"{key}: {text}" for key, text in plan.reasons.items()]
    shown = root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root
    last = f"wrote {shown}{remark}; train with\n"
    last += f"  python -m monai.bundle run training --config_file {shown}/configs/train.json"
    return Made(_report(found.findings, lines, last), root)


def _check(task: str, mixer: str, device: str | None, source: Source) -> None:
    if task not in TASKS:
        raise ValueError(f"--task {task} is unknown: known are {', '.join(TASKS)}.")
    if mixer not in MIXERS:
        raise ValueError(f"--mixer {mixer} is unknown: known are {', '.join(sorted(MIXERS))}.")
    if device is not None and device not in DEVICES:
        raise ValueError(f"--device {device} is unknown: known are {', '.join(DEVICES)}.")
    given = [n for n in ("labels", "labels_csv", "datalist") if getattr(source, n) is not None]
    if len(given) > 1:
        raise ValueError(f"--{given[0]} and --{given[1]} both say where the labels are; give one.")
    if source.images is None and source.datalist is None:
        raise ValueError("--images DIR is missing: the folder that holds the images.")
    if source.labels_csv is not None and task != "classification":
        raise ValueError(f"--labels_csv holds classes of whole images, and the task is {task}; give --labels DIR.")
    if source.labels is not None and task == "classification":
        raise ValueError("--labels DIR holds label images; classes come from folders or from --labels-csv FILE.")
    if source.dims not in (None, 2, 3):
        raise ValueError(f"--dims {source.dims} is neither 2 nor 3.")


def bundle_name(name: str, task: str) -> tuple[str, str]:
    """The folder's name, with the task in it, and a remark where it was added: MONAI Label reads the task from it.

    Raises:
        ValueError: characters that configs, servers or systems do not take.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(f"the name {name!r} must be made of letters a to z, digits, _ and -.")
    if task in name.lower():
        return name, ""
    return f"{name}_{task}", f" (the task is part of the name: {name}_{task}, which MONAI Label goes by)"


def find_cases(task: str, source: Source) -> Pairs:
    """The cases of the data, before any file is opened."""
    slices = source.dims == 2  # then a DICOM file is a picture
    images = folder_of_images(source.images, "images") if source.images is not None else None
    if source.datalist is not None:
        pairs = cases_of_datalist(Path(source.datalist).expanduser(), images)
        places = [Path(source.datalist).expanduser().resolve().parent]
        strange = [
            case for case in pairs.cases if case.label and isinstance(case.label, str) != (task == "classification")
        ]
        if strange:
            wanted = "a class" if task == "classification" else "a file that is there"
            raise ValueError(f"{source.datalist}: the label of {strange[0].name} is {strange[0].label}, not {wanted}.")
    else:
        assert images is not None
        places = [images, images.parent]
        if task == "classification":
            table = Path(source.labels_csv).expanduser() if source.labels_csv is not None else None
            pairs = cases_of_folders(images, slices) if table is None else cases_of_table(images, table, slices)
        else:
            labels = folder_of_images(source.labels, "labels") if source.labels is not None else None
            pairs = pair_files(images, labels, source.label_suffix, task == "segmentation", slices)
    pairs.class_names = names_from_description(places) if task == "segmentation" else {}
    return pairs


def _names(pairs: Pairs) -> set[str]:
    return {case.name for case in pairs.cases}


def _class_names(task: str, found: Survey, pairs: Pairs, source: Source) -> list[str]:
    """Of the classes, for segmentation without the background."""
    if task == "classification":
        known = sorted(found.classes, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    elif task == "segmentation":
        values = found.class_values
        plain = "foreground" if len(values) == 2 else "class {}"
        known = [pairs.class_names.get(value, plain.format(value)) for value in values][1:]
    else:
        return []
    if source.class_names is None or task == "classification":
        return known
    given = [word.strip() for word in source.class_names.split(",")]
    if len(given) != len(known):
        raise ValueError(
            f"--class_names gives {len(given)} names, {', '.join(given)}; the labels have {len(known)} classes beside "
            f"the background, stored as {', '.join(map(str, found.class_values[1:]))}."
        )
    return given


def _general(
    task: str, found: Survey, pairs: Pairs, labelled: list[Case], names: list[str], paired: bool
) -> list[Finding]:
    """Problems and warnings of the whole."""
    findings = []
    unlabelled = [case.name for case in found.cases if case.label is None] if paired else []
    if unlabelled:
        more = "" if len(unlabelled) <= 3 else f" and {len(unlabelled) - 3} more"
        message = f"{len(unlabelled)} images have no label and are not trained on: {', '.join(unlabelled[:3])}{more}"
        findings.append(Finding("images", "unlabelled", message, warning=True))
    least = found.intensity.get("least", 0.0)
    if not paired and least < 0:
        message = (
            f"clean images go down to {least:g}, and the Rician noise that training adds is that of magnitudes, which "
            "have no negative values; give clean and noisy images with --labels, or images from 0 on"
        )
        findings.append(Finding("images", "negative values", message))
    if any(not finding.warning for finding in [*found.findings, *findings]):
        return findings
    if not labelled:
        findings.append(Finding("data", "no case", "no case is left to train on"))
    elif task != "denoising" and len(names) < (1 if task == "segmentation" else 2):
        held = ", ".join(map(str, sorted(found.values))) if task == "segmentation" else ", ".join(names)
        message = f"there is one class only ({held}): nothing can be told apart"
        findings.append(Finding("labels", "one class", message))
    elif task == "classification" and len(labelled) < 2 * len(names):
        findings.append(Finding("data", "few cases", "there are fewer than two images a class", warning=True))
    return findings


def _report(findings: list[Finding], lines: list[str], last: str) -> str:
    text = []
    times: Counter[tuple[str, bool]] = Counter()
    for finding in sorted(findings, key=lambda finding: finding.warning):
        kind = (finding.kind, finding.warning)
        times[kind] += 1
        if times[kind] <= SHOWN:
            text.append(f"{'warning' if finding.warning else 'problem'}  {finding.case}: {finding.message}.")
    text += [f"... and {n - SHOWN} more of the kind {kind!r}" for (kind, _), n in times.items() if n > SHOWN]
    return "\n".join([*text, *lines, last])
