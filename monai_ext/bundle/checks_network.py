"""Checks of a bundle's network: weights, input and output, export."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from monai.bundle import verify_net_in_out

from monai_ext.bundle import models
from monai_ext.bundle.problem import Problem, Skipped


def weights(bundle: Path) -> Iterator[Problem]:
    """A plain state dict that fits the network, with finite numbers."""
    _need(bundle)
    try:
        state = torch.load(bundle / models.WEIGHTS, map_location="cpu", weights_only=True)
    except Exception as error:
        yield Problem(
            f"{models.WEIGHTS} cannot be loaded with weights_only=True ({_first(error)}).",
            "save network.state_dict() alone.",
        )
        return
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        yield Problem(f"{models.WEIGHTS} is no plain state dict.", "save network.state_dict() alone.")
        return
    wrong = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if wrong:
        yield Problem(f"{models.WEIGHTS}: {wrong[0]} has numbers that are not finite.", "train again.")
    if any(value.is_cuda for value in state.values()):
        yield Problem(f"{models.WEIGHTS} has tensors of a GPU.", "move them to the CPU before saving.")
    try:
        models.open_network(bundle)
    except ValueError as error:
        yield Problem(f"{error}", "make network_def and the weights fit.")


def input_and_output(bundle: Path) -> Iterator[Problem]:
    """The network takes and gives what the metadata says; MONAI's verify_net_in_out."""
    _need(bundle, weights=False)
    configs = bundle / "configs"
    told = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    try:
        with models.quiet():
            verify_net_in_out(net_id=models.NETWORK, device="cpu", bundle_root=str(bundle), **told)
    except Exception as error:
        yield Problem(
            f"the network and metadata.json do not fit ({_first(error)}).",
            "correct network_data_format, or network_def.",
        )


def tracing(bundle: Path) -> Iterator[Problem]:
    """``ckpt_export --use_trace True`` gives a model with the same outputs; a ``model.ts`` that is there, too."""
    _need(bundle)
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "models").mkdir()
            models.write_models(bundle, Path(folder), onnx=False, torchscript=True)
        if (bundle / models.TORCHSCRIPT).is_file():
            network, image = models.open_network(bundle), models.example_input(bundle)
            with torch.no_grad():
                found, want = torch.jit.load(bundle / models.TORCHSCRIPT, map_location="cpu")(image), network(image)
            if found.shape != want.shape or not torch.allclose(found, want, atol=1e-4, rtol=1e-4):
                yield Problem(f"{models.TORCHSCRIPT} gives other outputs than the weights.", "export it anew.")
    except Exception as error:
        yield Problem(f"{_first(error)}", "make the network traceable, or give no model.ts.")


def scripting(bundle: Path) -> Iterator[Problem]:
    """The zoo's check scripts the network, unless the bundle is on its list of those that cannot be scripted."""
    _need(bundle, weights=False)
    network = models.open_network(bundle) if (bundle / models.WEIGHTS).is_file() else None
    if network is None:
        raise Skipped(f"there is no {models.WEIGHTS}")
    try:
        with models.quiet():
            torch.jit.script(network)
    except Exception as error:
        raise Skipped(
            "the network cannot be scripted, as most transformers: ask in the pull request for the zoo's list "
            "exclude_verify_torchscript_list (ci/bundle_custom_data.py); traced, it works"
        ) from error
    yield from ()


def _need(bundle: Path, weights: bool = True) -> None:
    for name in ("configs/inference.json", "configs/metadata.json", *([models.WEIGHTS] if weights else [])):
        if not (bundle / name).is_file():
            raise Skipped(f"there is no {name}")


def _first(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__
