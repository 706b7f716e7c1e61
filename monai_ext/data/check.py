"""Opens every file of a data set and reports what is missing, unreadable, misaligned or out of range."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from monai_ext.data.check_case import Finding, check_case, some
from monai_ext.data.datalists import CaseFiles, count_cases, dataset_folder, find_cases, is_phantom
from monai_ext.data.manifest import SPLITS, Manifest, load_manifest
from monai_ext.data.rows import array_lengths, prefix_of
from monai_ext.data.tables import read_tables


@dataclass(frozen=True)
class Report:
    """What `check_dataset` found; `counts` as from `case_counts`."""

    name: str
    folder: str
    phantom: bool
    counts: dict[str, int]
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not any(not finding.warning for finding in self.findings)

    def dumps(self) -> str:
        return json.dumps(asdict(self) | {"ok": self.ok}, indent=2) + "\n"

    def table(self) -> str:
        """The findings, one a line, then how many of each kind, then the cases counted."""
        lines = []
        if self.findings:
            wide = max(len(finding.case) for finding in self.findings)
            kinds = max(len(finding.kind) for finding in self.findings)
            for finding in self.findings:
                level = "warning" if finding.warning else "problem"
                lines.append(f"{level}  {finding.case:{wide}}  {finding.kind:{kinds}}  {finding.message}")
            lines.append("")
            for (kind, warning), number in sorted(Counter((f.kind, f.warning) for f in self.findings).items()):
                lines.append(f"{number:5d}  {kind}{' (warning)' if warning else ''}")
            lines.append("")
        counts = self.counts
        lines.append(f"{self.folder}{' (a phantom: made-up data)' if self.phantom else ''}")
        lines.append(
            f"{counts['present']} of {counts['official']} official cases present, {counts['absent']} absent; "
            + ", ".join(f"{split} {counts[split]}" for split in SPLITS)
            + (f"; passed over {counts['passed_over']}" if "passed_over" in counts else "")
        )
        problems = sum(not finding.warning for finding in self.findings)
        warnings = len(self.findings) - problems
        lines.append(f"problems: {problems}, warnings: {warnings}")
        return "\n".join(lines)


def check_dataset(name: str | Path, root: str | Path, progress: bool = True) -> Report:
    """Reads every voxel of every case below `root`.

    Raises:
        FileNotFoundError: no such folder, no case or no table of its classes in it; the rest is in the report.
    """
    manifest = load_manifest(name)
    folder = dataset_folder(manifest, root)
    images, damaged = manifest.content["pairs"]["images"], []
    try:
        cases = find_cases(manifest, folder)
    except ValueError as error:  # of an archive of arrays, or of a table
        cases, damaged = [], [Finding(images, "unreadable", str(error))]
    if not cases and not damaged:
        raise FileNotFoundError(f"{folder} holds no case of {manifest.name} ({images}).")
    report = Report(manifest.name, str(folder), is_phantom(folder), count_cases(manifest, cases), damaged)
    report.findings.extend(_unlabelled_rows(manifest, cases))
    report.findings.extend(_listed_but_absent(manifest, folder, {files.case for files in cases}))
    report.findings.extend(_foreign(manifest, folder))
    report.findings.extend(_in_two_places(manifest, folder))
    report.findings.extend(_rows_without_image(manifest, folder, cases) if cases else [])
    report.findings.extend(_in_no_split(manifest, [files.case for files in cases]))
    for files in tqdm(cases, desc=f"checking {folder.name}", unit="case", disable=not progress):
        report.findings.extend(check_case(manifest, files))
    return report


def _listed_but_absent(manifest: Manifest, folder: Path, present: set[str]) -> list[Finding]:
    """Cases that the folder's own dataset.json lists, of which neither file is there."""
    if manifest.arrays:  # the cases are no files
        return []
    try:
        listed = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["training"]
        cases = {case for entry in listed if (case := manifest.case_of(folder / entry["image"])) is not None}
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [Finding("dataset.json", "unreadable", f"not a data set's description: {type(error).__name__} {error}")]
    return [
        Finding(case, "missing", "listed in dataset.json, but image and label are missing")
        for case in sorted(cases - present)
    ]


def _unlabelled_rows(manifest: Manifest, cases: list[CaseFiles]) -> list[Finding]:
    """Arrays with more images than labels; a label without an image is found with its case."""
    findings = []
    archive = cases[0].row.path if cases and cases[0].row is not None else None
    for names in manifest.arrays.values() if archive is not None else ():
        paths = {kind: archive.with_name(names.get(f"{kind}_file", archive.name)) for kind in ("images", "labels")}
        if not all(path.exists() for path in paths.values()):
            continue  # a split that was not fetched, or the finding of its rows
        try:
            images, labels = (array_lengths(path).get(names[kind], 0) for kind, path in paths.items())
        except ValueError:  # the finding of its rows, too
            continue
        if images > labels:
            found = f"{images - labels} of {images} images have no label"
            findings.append(Finding(prefix_of(paths["images"].name, names["images"]), "missing", found))
    return findings


def _foreign(manifest: Manifest, folder: Path) -> list[Finding]:
    """Files among the images and labels that belong to no case, macOS debris aside: a misspelt case goes unused."""
    pairs = manifest.content["pairs"]
    kinds = [kind for kind in ("images", "labels", "boxes", "second_labels") if kind in pairs]
    paths = sorted(path for kind in kinds for path in folder.glob(pairs[kind]))
    return [
        Finding(path.name, "foreign", f"{path.relative_to(folder)} is not named like a case ({pairs['case']})", True)
        for path in paths
        if manifest.case_of(path) is None and not path.name.startswith("._")
    ]


def _in_two_places(manifest: Manifest, folder: Path) -> list[Finding]:
    """Cases with several images, of which one only would be used."""
    places: dict[str, list[str]] = {}
    for path in [] if manifest.arrays else sorted(folder.glob(manifest.content["pairs"]["images"])):
        case = manifest.case_of(path)
        if case is not None:
            places.setdefault(case, []).append(path.relative_to(folder).as_posix())
    return [
        Finding(case, "twice", f"several images, of which one is used: {some(names)}")
        for case, names in places.items()
        if len(names) > 1
    ]


def _rows_without_image(manifest: Manifest, folder: Path, cases: list[CaseFiles]) -> list[Finding]:
    """What tables name and the folder lacks, a sentence a table: whoever has a part of the data has whole tables."""
    present = {manifest.group_of(files.case) for files in cases}
    absent: dict[Path, list[str]] = {}
    for name, verdict in read_tables(manifest, folder).items():
        if name not in present:
            absent.setdefault(verdict.table, []).append(name)
    return [
        Finding(table.name, "no image", f"{len(names)} of its cases have no image here: {some(sorted(names))}", True)
        for table, names in absent.items()
    ]


def _in_no_split(manifest: Manifest, cases: list[str]) -> list[Finding]:
    return [
        Finding(case, "no split", "in none of the manifest's lists, so neither trained nor tested on", True)
        for case in cases
        if manifest.split_of(case) is None and case not in manifest.unpaired
    ]
