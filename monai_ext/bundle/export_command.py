"""``bundle export``."""

from __future__ import annotations

from fire.decorators import SetParseFn

__all__ = ["export"]


@SetParseFn(str, "name", "out", "large_files_url")
def export(
    name: str,
    out: str,
    onnx: bool = False,
    no_ts: bool = False,
    overwrite: bool = False,
    large_files_url: str | None = None,
) -> None:
    """Write a bundle as a folder and a zip that run with MONAI alone, to OUT/NAME and OUT/NAME.zip.

    Args:
        name: a bundle's name in bundles/, or its path.
        out: the folder to write to.
        onnx: add models/model.onnx as well.
        no_ts: leave models/model.ts out.
        overwrite: replace what is there.
        large_files_url: the address of the folder from which files over 25 MB will be downloaded.
    """
    from monai_ext.bundle.export import export_bundle

    flags = {"torchscript": not no_ts, "onnx": onnx, "overwrite": overwrite}
    print(export_bundle(name, out, **flags, large_files_url=large_files_url))
