"""``bundle check``."""

from __future__ import annotations

from pathlib import Path

from fire.decorators import SetParseFn

__all__ = ["check"]


@SetParseFn(str, "name", "json")
def check(name: str, json: str | None = None) -> int:
    """Ask of a bundle what the model zoo asks, and say how to mend what fails; exit code 1 if anything does.

    Args:
        name: a bundle's name in bundles/, or its path.
        json: a file to write the report to.
    """
    from monai_ext.bundle.check import check_bundle

    report = check_bundle(name)
    print(report.table())
    if json is not None:
        Path(json).write_text(report.dumps(), encoding="utf-8")
    return 0 if report.ok else 1
