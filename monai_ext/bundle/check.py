"""Whether a bundle is what MONAI, the model zoo and MONAI Label expect of one.

Every check gives problems, each with the way to mend it. The zoo's own checks (metadata, changelog, input and output of
the network, export) are among them; the rest is what its standard and its users ask beside.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monai_ext.bundle import checks_configs, checks_files, checks_network
from monai_ext.bundle.find import find_folder
from monai_ext.bundle.problem import Problem, Skipped

__all__ = ["CHECKS", "Finding", "check_bundle", "report"]

Check = Callable[[Path], Iterator[Problem]]

# in the order in which they are told; what a later one needs, an earlier one has looked at
CHECKS: Mapping[str, Check] = {
    "files": checks_files.files,
    "metadata": checks_files.metadata,
    "metadata, by MONAI's schema": checks_files.schema,
    "docs": checks_files.docs,
    "large files": checks_files.large_files,
    "logging": checks_files.logging_config,
    "configs": checks_configs.configs,
    "ids": checks_configs.ids,
    "names of classes": checks_configs.targets,
    "paths": checks_configs.paths,
    "hashes": checks_configs.hashes,
    "training and inference": checks_configs.agreement,
    "weights": checks_network.weights,
    "input and output": checks_network.input_and_output,
    "TorchScript by tracing": checks_network.tracing,
    "TorchScript by scripting": checks_network.scripting,
    "checksums": checks_files.checksums,
}


@dataclass(frozen=True)
class Finding:
    """What one check found: ``state`` is "passed", "failed" or "not checked"."""

    check: str
    state: str
    problems: tuple[Problem, ...] = ()
    reason: str = ""


def check_bundle(name: str, only: str | None = None) -> list[Finding]:
    """Run all checks, or one.

    Args:
        name: of a bundle, or its folder.
        only: the name of a check.

    Raises:
        FileNotFoundError: no such bundle.
        ValueError: no such check.
    """
    folder = find_folder(name)
    if only is not None and only not in CHECKS:
        raise ValueError(f"there is no check {only!r}; there are {', '.join(CHECKS)}.")
    if str(folder) not in sys.path:
        sys.path.insert(1, str(folder))  # the bundle's own modules
    return [_run(title, check, folder) for title, check in CHECKS.items() if only in (None, title)]


def report(findings: list[Finding]) -> str:
    """A line for every check, and two for every problem."""
    marks = {"passed": "ok", "failed": "FAILED", "not checked": "-"}
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.state]:>6}  {finding.check}" + (f": {finding.reason}" if finding.reason else ""))
        for problem in finding.problems:
            lines += [f"        {problem.text}", f"        -> {problem.mend}"]
    failed = sum(finding.state == "failed" for finding in findings)
    passed = sum(finding.state == "passed" for finding in findings)
    lines.append(f"{passed} passed, {failed} failed, {len(findings) - passed - failed} not checked.")
    return "\n".join(lines)


def as_records(findings: list[Finding]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(finding) for finding in findings]


def _run(title: str, check: Check, folder: Path) -> Finding:
    try:
        problems = tuple(check(folder))
    except Skipped as reason:
        return Finding(title, "not checked", reason=str(reason))
    return Finding(title, "failed" if problems else "passed", problems)
