"""Bundles: made from your own data, checked, exported for others."""

from __future__ import annotations

from json import dumps

from fire.decorators import SetParseFn

from monai_ext.bundle.new_command import new
from monai_ext.files import atomic_write


@SetParseFn(str, "name", "out")
def export(name: str, out: str, onnx: bool = False, torchscript: bool = True, overwrite: bool = False) -> None:
    """Write a folder and a zip of a bundle that run with MONAI alone, without this package.

    Args:
        name: of a bundle, or its folder.
        out: the folder in which both are written.
        onnx: write models/model.onnx, too (extra onnx).
        torchscript: write models/model.ts; --torchscript False leaves it out.
        overwrite: replace what an earlier export left there.
    """
    from monai_ext.bundle.export import export_bundle

    for path in export_bundle(name, out, onnx, torchscript, overwrite):
        print(path)


@SetParseFn(str, "name", "json")
def check(name: str, json: str | None = None) -> int:
    """Look whether a bundle is what MONAI, the model zoo and MONAI Label expect, and say how to mend what is not.

    Args:
        name: of a bundle, or its folder; an exported one, too.
        json: write the findings to this file, as JSON.
    """
    from monai_ext.bundle.check import as_records, check_bundle, report

    findings = check_bundle(name)
    print(report(findings))
    if json is not None:
        with atomic_write(json) as file:
            file.write((dumps(as_records(findings), indent=1) + "\n").encode())
    return int(any(finding.state == "failed" for finding in findings))


COMMANDS = {"new": new, "check": check, "export": export}
