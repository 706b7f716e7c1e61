"""Data sets: what they are, fetching, checking and drawing them."""

from __future__ import annotations

import json
from pathlib import Path

from fire.decorators import SetParseFn

from monai_ext.data.manifest import list_manifests, load_manifest

_as_text = SetParseFn(str, "name", "root", "url")  # fire would read 2024 as a number


def list_() -> None:
    """List the data sets that have a manifest."""
    for name in list_manifests():
        content = load_manifest(name).content
        print(f"{name}  {content['title']} ({content['modality']}, {content['task']}, {content['licence']['spdx']})")


@_as_text
def show(name: str) -> None:
    """Show a data set's manifest."""
    print(json.dumps(load_manifest(name).content, indent=2, ensure_ascii=False))


@_as_text
def fetch(name: str, root: str, url: str | None = None, force: bool = False) -> None:
    """Download, verify and unpack a data set into the folder ROOT.

    Args:
        name: as listed by `list`, or the path of a manifest.
        root: the folder that the data set's folder is put into.
        url: a mirror's folder to take the archive from.
        force: fetch again what is there already.
    """
    from monai_ext.data.download import fetch as run

    print(run(name, root, url=url, force=force))


@SetParseFn(str, "name", "root", "json")
def check(name: str, root: str, json: str | None = None) -> int:
    """Open every file of a data set and report what is wrong; exit code 1 if anything is.

    Args:
        name: as listed by `list`, or the path of a manifest.
        root: the folder that contains the data set's folder, or that folder itself.
        json: a file to write the report to.
    """
    from monai_ext.data.check import check_dataset

    report = check_dataset(name, root)
    print(report.table())
    if json is not None:
        Path(json).write_text(report.dumps(), encoding="utf-8")
    return 0 if report.ok else 1


@_as_text
def phantom(name: str, root: str, cases: int | None = None, seed: int = 0, size: int | None = None) -> None:
    """Draw made-up data in a data set's official layout into the folder ROOT.

    Args:
        name: as listed by `list`.
        root: the folder that the data set's folder is put into.
        cases: how many, split as the manifest says; as many as its phantom usually has if left out.
        seed: the same seed draws the same data.
        size: width of pictures in pixels, the phantom's usual one if left out; not for volumes.
    """
    from monai_ext.data.phantom import draw_phantom

    print(draw_phantom(name, root, cases, seed, size))


COMMANDS = {"list": list_, "show": show, "fetch": fetch, "check": check, "phantom": phantom}
