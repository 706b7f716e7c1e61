"""The forms of a bundle's network: weights, TorchScript, ONNX; and that they agree."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ckpt_export, onnx_export

from monai_ext.optional import load

__all__ = ["example_input", "open_network", "write_models"]

WEIGHTS, TORCHSCRIPT, ONNX = "models/model.pt", "models/model.ts", "models/model.onnx"
NETWORK = "network_def"
TOLERANCE = 1e-4

# Runs an exported bundle where this package cannot be imported: folder, then the models to compare with the weights.
TRY = f'''
import importlib.abc, json, pathlib, pydoc, sys, warnings

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "monai_ext":
            raise ModuleNotFoundError(f"monai_ext is not here, and {{name}} was asked for")

sys.meta_path.insert(0, Blocked())
warnings.filterwarnings("ignore")
folder, *made = sys.argv[1:]
sys.path.insert(0, folder)
import torch
from monai.bundle import ConfigParser

def parser_of(*names):
    return ConfigParser(ConfigParser.load_config_files([f"{{folder}}/configs/{{name}}" for name in names]))

inference = parser_of("inference.json")
network = inference.get_parsed_content("{NETWORK}").eval()
network.load_state_dict(torch.load(f"{{folder}}/{WEIGHTS}", weights_only=True))

def walk(value):
    if isinstance(value, dict):
        yield from (item for key, item in value.items() if key == "_target_")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(item)

for path in sorted(pathlib.Path(folder, "configs").glob("*.json")):
    content = json.loads(path.read_text())
    for target in walk(content):
        if isinstance(target, str) and "." in target and target[0] not in "$@":
            assert callable(pydoc.locate(target)), f"{{path.name}}: {{target}} cannot be imported"
    for line in content.get("imports", []):
        exec(line.lstrip("$"))
metadata = json.load(open(f"{{folder}}/configs/metadata.json"))
image = next(iter(metadata["network_data_format"]["inputs"].values()))
torch.manual_seed(0)
x = torch.randn(1, image["num_channels"], *image["spatial_shape"])
with torch.no_grad():
    want = network(x)
    for name in made:
        if name.endswith(".ts"):
            found = torch.jit.load(f"{{folder}}/{{name}}")(x)
            assert torch.allclose(found, want, atol={TOLERANCE}, rtol={TOLERANCE}), f"{{name}} gives other outputs"
'''


def open_network(bundle: Path) -> torch.nn.Module:
    """The network of ``configs/inference.json`` with the bundle's weights, in eval mode.

    Raises:
        ValueError: the config has no ``network_def``, or it cannot be built, or the weights are of another one.
    """
    if str(bundle) not in sys.path:
        sys.path.insert(1, str(bundle))  # modules of its own
    parser = ConfigParser(ConfigParser.load_config_files([str(bundle / "configs" / "inference.json")]))
    try:
        network = parser.get_parsed_content(NETWORK)
    except Exception as error:
        raise ValueError(f"{NETWORK} of configs/inference.json cannot be built ({_reason(error)}).") from error
    try:
        state = torch.load(bundle / WEIGHTS, map_location="cpu", weights_only=True)
        network.load_state_dict(state, strict=True)
    except Exception as error:
        raise ValueError(f"{WEIGHTS} does not load into {NETWORK} ({_reason(error)}).") from error
    return network.eval()


def example_input(bundle: Path) -> torch.Tensor:
    """Random numbers of the size that ``configs/metadata.json`` says, batch 1.

    Raises:
        ValueError: it does not say it in numbers.
    """
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    try:
        image = next(iter(metadata["network_data_format"]["inputs"].values()))
        size = [int(image["num_channels"]), *map(int, image["spatial_shape"])]
    except (KeyError, StopIteration, TypeError, ValueError) as error:
        raise ValueError(
            "configs/metadata.json does not say num_channels and spatial_shape of the network's input in numbers."
        ) from error
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(0))


def write_models(source: Path, target: Path, onnx: bool, torchscript: bool) -> list[str]:
    """Trace the network, export it to ONNX on request, and compare the outputs.

    Args:
        source: the bundle.
        target: the folder in which ``models`` is filled; models of other forms that came along are removed.
        onnx, torchscript: which.

    Returns:
        what was written, relative to `target`

    Raises:
        ValueError: outputs differ, or the network cannot be traced or exported.
    """
    for name in (TORCHSCRIPT, ONNX):
        (target / name).unlink(missing_ok=True)
    made: list[str] = []
    network, image = open_network(source), example_input(source)
    with torch.no_grad():
        want = network(image)
    told: dict[str, Any] = {
        "net_id": NETWORK,
        "ckpt_file": str(source / WEIGHTS),
        "meta_file": str(source / "configs" / "metadata.json"),
        "config_file": str(source / "configs" / "inference.json"),
        "input_shape": list(image.shape),
    }
    if torchscript:
        with _exporting("traced"):
            ckpt_export(filepath=str(target / TORCHSCRIPT), use_trace=True, **told)
        with torch.no_grad():
            _same(torch.jit.load(target / TORCHSCRIPT)(image), want, TORCHSCRIPT)
        made.append(TORCHSCRIPT)
    if onnx:
        runtime = load("onnxruntime")
        load("onnxscript")
        with _exporting("exported to ONNX"):
            onnx_export(filepath=str(target / ONNX), **told)
        session = runtime.InferenceSession(str(target / ONNX))
        (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})[:1]
        _same(torch.from_numpy(found), want, ONNX)
        made.append(ONNX)
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """Without what MONAI and PyTorch say on the way."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _exporting(what: str) -> Iterator[None]:
    """Quiet; what goes wrong is a sentence."""
    try:
        with quiet():
            yield
    except Exception as error:
        raise ValueError(f"the network cannot be {what} ({_reason(error)}).") from error


def _same(found: torch.Tensor, want: torch.Tensor, name: str) -> None:
    if found.shape != want.shape or not torch.allclose(found, want, atol=TOLERANCE, rtol=TOLERANCE):
        raise ValueError(f"{name} gives other outputs than the network; nothing was written.")


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
