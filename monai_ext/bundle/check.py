"""Runs the checks of a bundle, and says what passes, what fails, and how to mend it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from monai_ext.bundle.checks import CHECKS, NotChecked, Problem
from monai_ext.bundle.find import find_bundle
from monai_ext.bundle.locate import on_path

__all__ = ["Finding", "Report", "check_bundle"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    problems: tuple[Problem, ...] = ()
    not_checked: str = ""  # why it could not be done

    @property
    def outcome(self) -> str:
        return "fails" if self.problems else "not checked" if self.not_checked else "passes"


@dataclass(frozen=True)
class Report:
    """All findings of a bundle."""

    bundle: Path
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing fails."""
        return not any(finding.problems for finding in self.findings)

    def table(self) -> str:
        """A line for every check, and under it what is wrong."""
        rows = [f"{self.bundle}"]
        for finding in self.findings:
            rows.append(
                f"  {finding.outcome:11}  {finding.check}{': ' if finding.not_checked else ''}{finding.not_checked}"
            )
            for problem in finding.problems:
                rows += [f"{'':15}{problem.what}", f"{'':15}-> {problem.mend}"]
        failed = sum(finding.outcome == "fails" for finding in self.findings)
        passed = sum(finding.outcome == "passes" for finding in self.findings)
        rows.append(f"{passed} checks pass, {failed} fail, {len(self.findings) - passed - failed} were not done")
        return "\n".join(rows)

    def dumps(self) -> str:
        """The same as JSON."""
        rows = [
            {
                "check": finding.check,
                "outcome": finding.outcome,
                "problems": [asdict(problem) for problem in finding.problems],
                "not_checked": finding.not_checked,
            }
            for finding in self.findings
        ]
        return json.dumps({"bundle": str(self.bundle), "ok": self.ok, "checks": rows}, indent=2) + "\n"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without what MONAI logs and draws on its way: the report says it."""
    former = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(former)


def check_bundle(name: str | Path, checks: Mapping[str, Callable[[Path], list[Problem]]] = CHECKS) -> Report:
    """Ask everything in ``checks`` of a bundle, whether it uses this package or not.

    Args:
        name: a bundle's name or path.
        checks: name to a function that gives back what is wrong; what else it raises counts as wrong, too.

    Raises:
        FileNotFoundError: no such bundle.
    """
    bundle = find_bundle(name)
    findings = []
    for check, function in checks.items():
        with on_path(bundle), _silence():
            try:
                findings.append(Finding(check, tuple(function(bundle))))
            except NotChecked as reason:
                findings.append(Finding(check, not_checked=str(reason)))
            except Exception as error:
                text = " ".join(str(error).split()) or type(error).__name__
                findings.append(Finding(check, (Problem(text, "mend what the sentence names"),)))
    return Report(bundle, tuple(findings))
