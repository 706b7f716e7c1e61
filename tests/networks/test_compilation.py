"""Compiled, exported, traced and as ONNX, every network gives what it gives as it is."""

from __future__ import annotations

import io
import itertools
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext.mixers import MIXERS
from monai_ext.networks import MixerSwin, MixerSwinUNETR, MixerSwinUPerNet, MixerUNETR, MixerViT, MixerViTUPerNet

VIT = {"in_channels": 1, "img_size": 24, "hidden_size": 12, "mlp_dim": 16, "num_heads": 3, "num_layers": 2}
SWIN = {"in_channels": 1, "depths": (2,), "num_heads": (2,), "window_size": 3, "feature_size": 8, "mlp_ratio": 2.0}
NETWORKS: dict[str, tuple[type[torch.nn.Module], dict[str, Any]]] = {
    "vit": (MixerViT, {**VIT, "patch_size": 4}),
    "vit_class": (MixerViT, {**VIT, "patch_size": 4, "classification": True}),
    "unetr": (MixerUNETR, {**VIT, "patch_size": 4, "out_channels": 2, "feature_size": 4}),
    "swin_class": (MixerSwin, {**SWIN, "classification": True}),
    "swin_unetr": (MixerSwinUNETR, {**SWIN, "out_channels": 2}),
    "swin_unetr_v2": (MixerSwinUNETR, {**SWIN, "out_channels": 2, "use_v2": True, "downsample": "mergingv2"}),
    "vit_upernet": (MixerViTUPerNet, {**VIT, "patch_size": 4, "out_channels": 2, "head_channels": 4}),
    "swin_upernet": (MixerSwinUPerNet, {**SWIN, "out_channels": 2, "head_channels": 4, "taps": (0, 1)}),
}
ODD = {2: (27, 33), 3: (27, 15, 18)}
COMMON = ["seqnorm", "linear", "sima", "relu_linear", "reduced", "hyena_nd", "neighborhood"]

each_network = pytest.mark.parametrize("network", NETWORKS)
each_dim = pytest.mark.parametrize("dims", [2, 3], ids=["2D", "3D"])
quiet = pytest.mark.filterwarnings("ignore")  # of PyTorch's own about its exporters and tracers


def build(network: str, mixer: str, dims: int, **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    cls, defaults = NETWORKS[network]
    return cls(**{**defaults, "mixer": mixer, "spatial_dims": dims, **options})


def images(dims: int, batch: int = 2) -> list[torch.Tensor]:
    """Odd sizes, one that no padding is needed for, one in between, and one of few windows."""
    sizes = [ODD[dims], (32, 24, 40)[:dims], (21, 34, 20)[:dims], (11, 9, 12)[:dims]]
    return [torch.randn(batch, 1, *size) for size in sizes]


def main_output(out: Any) -> torch.Tensor:
    return out if isinstance(out, torch.Tensor) else out[0]


def gradients(net: torch.nn.Module, run: Any, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    net.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_()
    out = main_output(run(x))
    out.sin().sum().backward()
    return out.detach(), {"": x.grad, **{key: p.grad for key, p in net.named_parameters() if p.grad is not None}}


def check_compiled(net: torch.nn.Module, x: torch.Tensor, backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    wanted, wanted_gradients = gradients(net, net, x)
    out, found = gradients(net, compiled, x)
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-4)
    largest = max(gradient.norm() for gradient in wanted_gradients.values())
    assert found.keys() == wanted_gradients.keys()
    for key, gradient in wanted_gradients.items():
        assert (found[key] - gradient).norm() <= 1e-3 * max(gradient.norm(), 1e-3 * largest), key
    with torch.no_grad():
        torch.testing.assert_close(main_output(compiled(x)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "mixer"),
    [
        *itertools.product(NETWORKS, ["softmax"]),
        *itertools.product(["vit"], COMMON),
        *itertools.product(["swin_unetr"], ["seqnorm", "hyena_nd"]),
    ],
)
def test_compiles_whole(network: str, mixer: str) -> None:
    """Without a break of the graph, forward and backward."""
    check_compiled(build(network, mixer, 2), images(2)[0], "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("network", ["unetr", "swin_unetr"])
def test_compiles_whole_in_3d(network: str) -> None:
    check_compiled(build(network, "softmax", 3, qkv_bias=True), images(3, batch=1)[0], "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"norm_name": "batch"}, {"block": {"local_concentration": True}}], ids=str)
def test_compiles_with_checkpoints_and_batch_norms(options: dict) -> None:
    """Whose statistics a step changes once."""
    check_compiled(build("unetr", "softmax", 2, use_checkpoint=True, **options), images(2)[0], "aot_eager")
    net = build("unetr", "softmax", 2, use_checkpoint=True, **options)
    gradients(net, torch.compile(net, fullgraph=True, backend="aot_eager"), images(2)[0])
    assert {int(count) for key, count in net.state_dict().items() if key.endswith("num_batches_tracked")} == {1}


@pytest.mark.slow
def test_the_default_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor, which writes and builds C++."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        pytest.skip(f"no C++ compiler: {error}")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    check_compiled(build("vit", "softmax", 2, num_layers=1), images(2)[0], "inductor")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "mixer", "dims"),
    [
        *itertools.product(["vit", "unetr", "swin_unetr"], ["softmax", "seqnorm"], [2]),
        *itertools.product(["vit_upernet", "swin_upernet"], ["softmax"], [2, 3]),
        ("vit", "linear", 2),
        ("vit_class", "sima", 2),
        ("unetr", "linear", 3),
        ("swin_unetr_v2", "sima", 2),
        ("swin_unetr", "softmax", 3),
    ],
)
@quiet
@torch.no_grad()
def test_exports_with_open_sizes(network: str, mixer: str, dims: int) -> None:
    net = build(network, mixer, dims).eval()
    first, *others = images(dims)
    open_sizes = {axis: torch.export.Dim.DYNAMIC for axis in range(2, dims + 2)}
    exported = torch.export.export(net, (first,), dynamic_shapes=(open_sizes,)).module()
    for x in [first, *others]:
        torch.testing.assert_close(main_output(exported(x)), main_output(net(x)), rtol=1e-4, atol=1e-5)


@quiet
@torch.no_grad()
def test_sima_exports_for_few_and_many_tokens() -> None:
    """Fewer tokens than channels of a head, or more."""
    net = build("vit", "sima", 2, hidden_size=64, num_heads=2).eval()
    sizes = {axis: torch.export.Dim.DYNAMIC for axis in (2, 3)}
    for example, other in (((36, 40), (9, 12)), ((9, 12), (36, 40))):
        exported = torch.export.export(net, (torch.randn(1, 1, *example),), dynamic_shapes=(sizes,)).module()
        x = torch.randn(1, 1, *other)
        torch.testing.assert_close(main_output(exported(x)), main_output(net(x)), rtol=1e-4, atol=1e-5)


@quiet
@torch.no_grad()
def test_a_swin_alone_exports_with_multiples_of_its_strides() -> None:
    """It pads with zeros wherever an axis is odd, which differs from size to size."""
    net = build("swin_class", "softmax", 2).eval()
    sizes = {2: 4 * torch.export.Dim("height"), 3: 4 * torch.export.Dim("width")}
    exported = torch.export.export(net, (torch.randn(2, 1, 28, 36),), dynamic_shapes=(sizes,)).module()
    for size in [(28, 36), (24, 40)]:
        x = torch.randn(2, 1, *size)
        torch.testing.assert_close(main_output(exported(x)), main_output(net(x)), rtol=1e-4, atol=1e-5)


@quiet
@torch.no_grad()
def test_an_export_refuses_what_its_windows_do_not_fit() -> None:
    """A grid that clips the windows is another computation: better an error than another output."""
    net, x = build("swin_unetr", "softmax", 2, window_size=6).eval(), images(2)[0]
    exported = torch.export.export(net, (x,), dynamic_shapes=({2: torch.export.Dim.DYNAMIC},)).module()
    exported(torch.randn(2, 1, 40, 33))
    with pytest.raises((AssertionError, RuntimeError)):
        exported(torch.randn(2, 1, 9, 33))


@pytest.mark.slow
@quiet
@torch.no_grad()
def test_exports_from_a_grid_of_few_windows() -> None:
    """An image whose last stage has two windows along an axis serves as the example, too."""
    net, x = build("swin_unetr", "softmax", 2, depths=(2, 2), num_heads=(2, 2)).eval(), torch.randn(2, 1, 20, 18)
    open_sizes = {axis: torch.export.Dim.DYNAMIC for axis in (2, 3)}
    exported = torch.export.export(net, (x,), dynamic_shapes=(open_sizes,)).module()
    for size in [(20, 18), (35, 61), (16, 40)]:
        x = torch.randn(2, 1, *size)
        torch.testing.assert_close(exported(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["cvt", "hyena_nd", "mamba", "retention"])
@torch.no_grad()
def test_exports_for_one_size(mixer: str) -> None:
    net, x = build("vit", mixer, 2).eval(), images(2)[0]
    exported = torch.export.export(net, (torch.zeros_like(x),)).module()
    torch.testing.assert_close(main_output(exported(x)), main_output(net(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixer", [name for name, cls in MIXERS.items() if 2 in cls.dims])
@quiet
@torch.no_grad()
def test_traces(mixer: str) -> None:
    check_trace(build("swin_unetr", mixer, 2), images(2)[0])


@each_network
@each_dim
@quiet
@torch.no_grad()
def test_networks_trace(network: str, dims: int) -> None:
    check_trace(build(network, "softmax", dims), images(dims)[0])


def check_trace(net: torch.nn.Module, x: torch.Tensor) -> None:
    net, buffer = net.eval(), io.BytesIO()
    torch.jit.save(torch.jit.trace(net, torch.zeros_like(x), check_trace=False, strict=False), buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    # the batch of a trace stays open
    for batch in (x, x[:1], torch.cat([x, x.flip(-1), 2 * x])):
        torch.testing.assert_close(main_output(loaded(batch)), main_output(net(batch)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "mixer", "dims"),
    [("vit_class", "softmax", 2), ("unetr", "seqnorm", 3), ("swin_unetr", "softmax", 2), ("vit_upernet", "softmax", 3)],
)
@quiet
@torch.no_grad()
def test_onnx_with_open_sizes(network: str, mixer: str, dims: int, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    net, file = build(network, mixer, dims).eval(), tmp_path / "network.onnx"
    first, *others = images(dims)
    open_sizes = {axis: torch.export.Dim.DYNAMIC for axis in range(2, dims + 2)}
    torch.onnx.export(net, (first,), file, dynamo=True, verbose=False, dynamic_shapes=(open_sizes,))
    check_onnx(runtime, net, file, [first, *others])


@pytest.mark.parametrize(
    "network", ["vit_class", "unetr", "swin_unetr", "swin_unetr_v2", "vit_upernet", "swin_upernet"]
)
@each_dim
@quiet
@torch.no_grad()
def test_onnx_by_tracing(network: str, dims: int, tmp_path: Path) -> None:
    """As ``python -m monai.bundle onnx_export`` does, for one size."""
    runtime = pytest.importorskip("onnxruntime")
    net, file = build(network, "softmax", dims).eval(), tmp_path / "network.onnx"
    first = images(dims)[0]
    torch.onnx.export(net, (first,), file, dynamo=False, opset_version=17)
    check_onnx(runtime, net, file, [first])


def check_onnx(runtime: Any, net: torch.nn.Module, file: Path, inputs: list[torch.Tensor]) -> None:
    session = runtime.InferenceSession(str(file))
    for x in inputs:
        out = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(out), main_output(net(x)), rtol=1e-4, atol=1e-4)
