"""The network, its weights, and what can be made of it."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch
from monai.bundle import verify_net_in_out

from monai_ext.bundle.checks.problems import NotChecked, Problem
from monai_ext.bundle.checks.reading import config_file
from monai_ext.bundle.locate import input_shape, network_of

__all__ = ["input_and_output", "scripting", "shipped_torchscript", "tracing", "weights"]

TOLERANCE = 1e-4


def weights(bundle: Path) -> list[Problem]:
    """``model.pt`` loads with ``weights_only``, is a state dict of finite tensors on the CPU, and fits the network."""
    path = bundle / "models" / "model.pt"
    if not path.is_file():
        return []  # said by `required_files`
    mend = "save network.state_dict() alone, on the CPU, as models/model.pt"
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:
        return [Problem(f"model.pt does not load with weights_only: {_first(error)}", mend)]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        return [Problem("model.pt is not a plain state dict", mend)]
    found = []
    if any(value.is_floating_point() and not torch.isfinite(value).all() for value in state.values()):
        found.append(Problem("model.pt holds NaN or infinite values", "take the weights of another epoch"))
    if any(value.is_cuda for value in state.values()):
        found.append(Problem("model.pt holds tensors of a GPU", mend))
    try:
        network_of(bundle)
    except Exception as error:
        found.append(Problem(f"model.pt does not fit network_def: {_first(error)}", "correct network_def, or train"))
    return found


def input_and_output(bundle: Path) -> list[Problem]:
    """MONAI's check that the network takes and gives what the metadata says."""
    path = config_file(bundle, "inference")
    meta = bundle / "configs" / "metadata.json"
    if path is None or not meta.is_file():
        return []
    try:
        verify_net_in_out(
            net_id="network_def", meta_file=str(meta), config_file=str(path), device="cpu", bundle_root=str(bundle)
        )
    except Exception as error:
        return [Problem(f"network and metadata differ: {_first(error)}", "correct network_data_format or network_def")]
    return []


def tracing(bundle: Path) -> list[Problem]:
    """A trace gives what the network gives."""
    net = _network(bundle)
    image = torch.rand(input_shape(bundle), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = net(image)
        try:
            traced = torch.jit.trace(net, image, check_trace=False)
        except Exception as error:
            return [Problem(f"the network cannot be traced: {_first(error)}", "leave out what depends on the values")]
        if not torch.allclose(_tensor(traced(image)), _tensor(wanted), atol=TOLERANCE, rtol=TOLERANCE):
            return [Problem("a trace gives another output", "leave out what depends on the values of the input")]
    return []


def shipped_torchscript(bundle: Path) -> list[Problem]:
    """``model.ts``, if there is one, gives what ``model.pt`` gives."""
    path = bundle / "models" / "model.ts"
    if not path.is_file():
        raise NotChecked("the bundle has none")
    net = _network(bundle)
    image = torch.rand(input_shape(bundle), generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            found, wanted = _tensor(torch.jit.load(str(path), "cpu")(image)), _tensor(net(image))
    except Exception as error:
        return [Problem(f"model.ts does not run: {_first(error)}", "export it again")]
    if found.shape != wanted.shape or not torch.allclose(found, wanted, atol=TOLERANCE, rtol=TOLERANCE):
        return [Problem("model.ts gives another output than model.pt", "export it again")]
    return []


def scripting(bundle: Path) -> list[Problem]:
    """The model zoo compiles the network by ``torch.jit.script`` unless the bundle is on its list of exceptions."""
    net = _network(bundle)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(copy.deepcopy(net))
    except Exception as error:
        raise NotChecked(
            f"torch.jit.script does not take this network ({_first(error)}); a submission to the model zoo "
            "adds the bundle to exclude_verify_torchscript_list in its ci/bundle_custom_data.py, as for its Swin UNETR"
        ) from error
    return []


def _network(bundle: Path) -> torch.nn.Module:
    try:
        return network_of(bundle)
    except Exception as error:
        raise NotChecked(f"the network cannot be made with its weights: {_first(error)}") from error


def _tensor(output: object) -> torch.Tensor:
    first = output[0] if isinstance(output, (list, tuple)) else output
    assert isinstance(first, torch.Tensor)
    return first


def _first(error: BaseException) -> str:
    """The innermost reason, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 200 else f"{text[:200]}..."
