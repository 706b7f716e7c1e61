"""A bundle's network as TorchScript and as ONNX, each compared with its weights before it counts.

MONAI's own commands make the files, in a process of their own that starts in the exported folder: so the code that
the bundle carries is what is traced, and the file does not depend on what this process did before.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import torch

from monai_ext.bundle.locate import input_shape, network_of, on_path

__all__ = ["add_onnx", "add_torchscript", "rewrite_zip"]

TOLERANCE = 1e-4  # largest difference between the outputs, absolute and relative
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def add_torchscript(bundle: Path) -> float:
    """Trace the network to ``models/model.ts``; gives back the largest difference between the outputs.

    Raises:
        ValueError: it cannot be traced, or the outputs differ by more than ``TOLERANCE``.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.ts"
        _monai(bundle, "ckpt_export", made, "--use_trace", "True")
        target = bundle / "models" / "model.ts"
        _without_paths(made, target)
    return _compared(bundle, target, lambda image: torch.jit.load(str(target), "cpu")(image))


def add_onnx(bundle: Path) -> float:
    """Write the network to ``models/model.onnx``; gives back the largest difference between the outputs.

    Raises:
        ValueError: it cannot be exported, or the outputs differ by more than ``TOLERANCE``.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    from monai_ext import optional

    onnx, runtime = optional.load("onnx"), optional.load("onnxruntime")
    optional.load("onnxscript")
    target = bundle / "models" / "model.onnx"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.onnx"
        _monai(bundle, "onnx_export", made, "--input_shape", str(list(_shape_of(bundle))))
        model = onnx.load(str(made))
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input):
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]  # the paths of the sources on this machine
        if hasattr(part, "doc_string"):
            part.doc_string = ""
    target.write_bytes(model.SerializeToString(deterministic=True))
    session = runtime.InferenceSession(str(target), providers=["CPUExecutionProvider"])

    def answer(image: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.asarray(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]))

    return _compared(bundle, target, answer)


def _shape_of(bundle: Path) -> tuple[int, ...]:
    """The shape of an input of the exported bundle."""
    with on_path(bundle):
        return input_shape(bundle)


def rewrite_zip(files: list[tuple[str, bytes]], target: IO[bytes]) -> None:
    """Write an archive in which nothing depends on when or where it was made; the files' order is kept."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files:
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3
            archive.writestr(entry, content)


def _monai(bundle: Path, command: str, made: Path, *words: str) -> None:
    call = [sys.executable, "-m", "monai.bundle", command, "--net_id", "network_def", "--filepath", str(made)]
    call += ["--ckpt_file", "models/model.pt", "--meta_file", "configs/metadata.json"]
    call += ["--config_file", "configs/inference.json", "--bundle_root", ".", *words]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(call, cwd=bundle, env=environment, capture_output=True, encoding="utf-8", errors="replace")
    if result.returncode != 0 or not made.is_file():
        *_, last = ["no message", *filter(str.strip, result.stderr.splitlines())]
        raise ValueError(f"the network cannot be written as {made.suffix[1:]} by MONAI's {command}: {last.strip()}")


def _without_paths(made: Path, target: Path) -> None:
    """Copy a TorchScript archive without the records that say where on this machine the sources lay."""
    reader = torch._C.PyTorchFileReader(str(made))
    names = [name for name in reader.get_all_records() if not name.endswith(".debug_pkl")]
    writer = torch._C.PyTorchFileWriter(str(target))
    for name in names:
        if name not in ("version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id"):
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()


def _compared(bundle: Path, made: Path, answer: Callable[[torch.Tensor], torch.Tensor]) -> float:
    with on_path(bundle), torch.no_grad():
        image = torch.rand(input_shape(bundle), generator=torch.Generator().manual_seed(0)) * 2 - 1
        wanted = network_of(bundle)(image)
        found = answer(image)
    difference = float((found - wanted).abs().max())
    if found.shape != wanted.shape or not torch.allclose(found, wanted, atol=TOLERANCE, rtol=TOLERANCE):
        made.unlink()
        raise ValueError(f"{made.name} does not give what model.pt gives: outputs differ by up to {difference:.2g}.")
    return difference
