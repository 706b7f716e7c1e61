"""One contract for every mixer of the table."""

from __future__ import annotations

import copy
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from monai_ext.mixers import MIXERS, Mixer, build_mixer, mixer_options

DIM, HEADS = 12, 3
GRIDS = [(5, 3), (1, 7), (3, 2, 5), (1, 4, 1), (1, 1), (1, 1, 1)]
ODD = {2: (5, 3), 3: (3, 1, 5)}
LARGER = {2: (24, 20), 3: (8, 7, 6)}

each_mixer = pytest.mark.parametrize("name", MIXERS)
each_case = pytest.mark.parametrize(
    ("name", "dims"), [(name, dims) for name, cls in MIXERS.items() for dims in cls.dims], ids=str
)


def some_grid(name: str, grids: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The first of the grids whose dimensions the mixer knows."""
    return next(grid for grid in grids if len(grid) in MIXERS[name].dims)


def build(name: str, grid: tuple[int, ...], **options: object) -> Mixer:
    torch.manual_seed(0)
    return build_mixer({"name": name, **options}, DIM, HEADS, len(grid), grid=grid)


def tokens(grid: tuple[int, ...], batch: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, math.prod(grid), DIM, generator=torch.Generator().manual_seed(seed))


@each_case
def test_forward_and_backward(name: str, dims: int) -> None:
    for grid in (grid for grid in GRIDS if len(grid) == dims):
        check_forward_and_backward(build(name, grid), grid)


def check_forward_and_backward(mixer: Mixer, grid: tuple[int, ...]) -> None:
    x = tokens(grid).requires_grad_()
    out = mixer(x, grid)
    assert out.shape == x.shape and out.dtype == x.dtype and out.isfinite().all()
    out.square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0


@each_case
def test_every_parameter_gets_a_gradient(name: str, dims: int) -> None:
    # with every switch on that adds parameters
    switches = {key: True for key in ("qkv_bias",) if key in mixer_options(name)}
    mixer = build(name, ODD[dims], **switches)
    # not the plain sum of squares: the norm of the weights of a softmax would hide a gradient
    mixer(tokens(ODD[dims]), ODD[dims]).sin().sum().backward()
    for key, parameter in mixer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0, key


@each_mixer
def test_gradients_in_float64(name: str) -> None:
    """The derivative along a random direction of all parameters and the input, against a difference quotient."""
    grid = some_grid(name, [(3, 2), (2, 1, 3)])
    # whole, where an option says what the gradient leaves out
    switches = {key: True for key in ("weight_gradient",) if key in mixer_options(name)}
    mixer = build(name, grid, **switches).double()
    x = tokens(grid).double().requires_grad_()
    inputs = [x, *mixer.parameters()]
    mixer(x, grid).sin().sum().backward()
    directions = [torch.randn(t.shape, dtype=torch.float64) for t in inputs]
    wanted = sum((t.grad * d).sum() for t, d in zip(inputs, directions))
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for t, d in zip(inputs, directions):
                t += step * d
        values.append(mixer(x, grid).sin().sum().item())
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(wanted.item(), rel=1e-5)


@each_case
def test_eval_is_deterministic(name: str, dims: int) -> None:
    switches = {key: 0.5 for key in ("attn_drop_rate",) if key in mixer_options(name)}
    mixer, x = build(name, ODD[dims], **switches).eval(), tokens(ODD[dims])
    with torch.no_grad():
        assert torch.equal(mixer(x, ODD[dims]), mixer(x, ODD[dims]))
    # nor does it matter whether a gradient is wanted
    torch.testing.assert_close(mixer(x, ODD[dims]), mixer(x.requires_grad_(), ODD[dims]))


@each_case
def test_save_and_load(name: str, dims: int, tmp_path: Path) -> None:
    mixer, x = build(name, ODD[dims]), tokens(ODD[dims])
    torch.save(mixer.state_dict(), tmp_path / "mixer.pt")
    other = build_mixer(name, DIM, HEADS, dims, grid=ODD[dims])
    other.load_state_dict(torch.load(tmp_path / "mixer.pt", weights_only=True))
    assert torch.equal(mixer(x, ODD[dims]), other(x, ODD[dims]))
    assert torch.equal(mixer(x, ODD[dims]), copy.deepcopy(mixer)(x, ODD[dims]))


@each_case
@pytest.mark.parametrize("how", ["module", "autocast"])
@pytest.mark.parametrize("grids", [ODD, LARGER], ids=["odd", "larger"])
def test_bf16(name: str, dims: int, grids: dict[int, tuple[int, ...]], how: str) -> None:
    check_bf16(name, grids[dims], how, "cpu")


@pytest.mark.gpu
@each_case
def test_cuda_gives_what_the_cpu_gives(name: str, dims: int) -> None:
    """In float32, by whatever package ``backend="auto"`` finds; and bfloat16 is as close there."""
    mixer, x = build(name, LARGER[dims]), tokens(LARGER[dims])
    other = copy.deepcopy(mixer).cuda()
    out, wanted = other(x.cuda(), LARGER[dims]), mixer(x, LARGER[dims])
    torch.testing.assert_close(out.cpu(), wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())
    wanted.sin().sum().backward()
    out.sin().sum().backward()
    largest = max(b.grad.norm() for b in mixer.parameters())
    for (key, a), b in zip(other.named_parameters(), mixer.parameters()):
        assert (a.grad.cpu() - b.grad).norm() <= 1e-2 * max(b.grad.norm(), 0.01 * largest), key
    check_bf16(name, LARGER[dims], "autocast", "cuda")


def check_bf16(name: str, grid: tuple[int, ...], how: str, device: str) -> None:
    mixer, x = build(name, grid).to(device), tokens(grid).to(device)
    low = copy.deepcopy(mixer)
    if how == "module":
        out = low.bfloat16()(x.bfloat16(), grid)
        # the same weights and tokens on both sides: where a mixer sorts, rounding these may change the order
        mixer, x = copy.deepcopy(low).float(), x.bfloat16().float()
    else:
        with torch.autocast(device, torch.bfloat16):
            out = low(x, grid)
    assert out.dtype == torch.bfloat16
    wanted = mixer(x, grid)
    assert (out - wanted).norm() <= (0.02 if how == "autocast" else 0.05) * wanted.norm()
    wanted.square().sum().backward()
    out.float().square().sum().backward()
    largest = max(b.grad.norm() for b in mixer.parameters())
    for (key, a), b in zip(low.named_parameters(), mixer.parameters()):
        assert a.grad.isfinite().all(), key
        # cosine, over the parameter: single elements may cancel
        if b.grad.norm() > 1e-2 * largest:
            assert torch.cosine_similarity(a.grad.float().flatten(), b.grad.flatten(), 0) > 0.9, key


@each_case
def test_windows_are_a_batch(name: str, dims: int) -> None:
    """One object for whole image and windows, and no entry of a batch sees another."""
    window = (3,) * dims
    mixer = build(name, window).eval()  # a batch norm would let them meet in training
    x = tokens(window, batch=5)
    out = mixer(x, window)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(mixer(x[order], window), out[order])
    for number in range(5):
        torch.testing.assert_close(mixer(x[number : number + 1], window), out[number : number + 1])
    whole = (6, 4, 5)[:dims]
    if not mixer.fixed_grid:
        assert mixer(tokens(whole), whole).isfinite().all()
        return
    with pytest.raises(ValueError, match=r"belong to a grid of \(3, 3"):
        mixer(tokens(whole), whole)


@each_mixer
def test_strides_do_not_matter(name: str) -> None:
    grid = some_grid(name, [(5, 3), (5, 3, 1)])
    mixer, x = build(name, grid), tokens(grid)
    torch.testing.assert_close(mixer(x.transpose(1, 2).contiguous().transpose(1, 2), grid), mixer(x, grid))


@each_mixer
def test_sets_are_permutation_equivariant(name: str) -> None:
    grid = some_grid(name, [(11, 3), (11, 3, 1)])  # longer than a window
    mixer, x = build(name, grid), tokens(grid)
    order = torch.randperm(33, generator=torch.Generator().manual_seed(0))
    same = torch.allclose(mixer(x[:, order], grid), mixer(x, grid)[:, order], atol=1e-5)
    assert same == (not mixer.reads_grid)


@each_mixer
def test_further_tokens(name: str) -> None:
    """A class token may join a set, and a mixer that reads the grid says that the numbers do not match."""
    grid = some_grid(name, [(5, 3), (5, 3, 1)])
    mixer, x = build(name, grid), tokens((4, 4))
    if mixer.reads_grid:
        with pytest.raises(ValueError, match=r"16 tokens .* \(5, 3"):
            mixer(x, grid)
    else:
        assert mixer(x, grid).shape == x.shape


@each_case
def test_reach(name: str, dims: int) -> None:
    """Every token reaches every other one; in a local mixer itself; in a causal one none before it."""
    grid = ODD[dims]
    mixer = build(name, grid).double().eval()
    # in one of several samples: two tokens may have a weight of exactly zero (ReLU)
    x = tokens(grid, batch=4).double().requires_grad_()
    out = mixer(x, grid).sin().sum((0, -1))
    # how much output p (row) depends on input q (column)
    reached = torch.stack([torch.autograd.grad(y, x, retain_graph=True)[0].abs().sum((0, -1)) for y in out])
    seen = reached > 1e-12
    if mixer.causal:
        assert not seen.triu(1).any()
        assert mixer.local or seen.tril().sum() == seen.tril().numel() // 2 + len(seen) // 2 + 1
    elif mixer.local:
        assert seen.diagonal().all() and seen.triu(1).any() and seen.tril(-1).any()
    else:
        assert seen.all()


@each_mixer
def test_bias_only_where_it_is_taken(name: str) -> None:
    grid = some_grid(name, [(5, 3), (5, 3, 1)])
    mixer, x = build(name, grid), tokens(grid)
    bias = torch.randn(1, HEADS, 15, 15, requires_grad=True)
    if mixer.takes_bias:
        out = mixer(x, grid, bias)
        assert not torch.allclose(out, mixer(x, grid))
        (grad,) = torch.autograd.grad(out.square().sum(), bias)
        assert grad.abs().sum() > 0
        # a mask hides tokens for good
        mask = torch.zeros(15, 15).masked_fill(torch.arange(15) >= 9, float("-inf"))
        changed = torch.cat([x[:, :9], 2 * x[:, 9:]], 1)
        torch.testing.assert_close(mixer(x, grid, mask)[:, :9], mixer(changed, grid, mask)[:, :9])
    else:
        with pytest.raises(ValueError, match="bias=None"):
            mixer(x, grid, bias)


@each_case
def test_compiles_whole(name: str, dims: int) -> None:
    mixer, x = build(name, ODD[dims]), tokens(ODD[dims])
    torch._dynamo.reset()
    compiled = torch.compile(mixer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, ODD[dims]), mixer(x, ODD[dims]))


class OnGrid(torch.nn.Module):
    """A mixer with a grid, since a trace takes tensors alone."""

    def __init__(self, mixer: Mixer, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.mixer, self.grid = mixer, grid

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mixer(x, self.grid)


@each_mixer
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traces(name: str) -> None:
    """As TorchScript it can be saved, read by what does not know this package, and run on any number of samples."""
    grid = some_grid(name, [(5, 3), (5, 3, 1)])
    model, x = OnGrid(build(name, grid), grid).eval(), tokens(grid)
    with torch.no_grad():
        traced, buffer = torch.jit.trace(model, x), io.BytesIO()
        torch.jit.save(traced, buffer)
        buffer.seek(0)
        loaded = torch.jit.load(buffer)
        for batch in (x, x[:1], torch.cat([x, 2 * x, x.flip(1)])):
            torch.testing.assert_close(loaded(batch), model(batch))


@each_mixer
def test_class_says_what_it_can(name: str) -> None:
    for attribute in ("reads_grid", "takes_bias", "causal", "local", "fixed_grid"):
        assert isinstance(getattr(MIXERS[name], attribute), bool)


@each_mixer
def test_unknown_option(name: str) -> None:
    with pytest.raises(ValueError, match="nonsense") as error:
        build_mixer({"name": name, "nonsense": 1}, DIM, HEADS, MIXERS[name].dims[0])
    assert all(option in str(error.value) for option in mixer_options(name))


@each_mixer
def test_width_and_dimensions(name: str) -> None:
    with pytest.raises(ValueError, match=r"12 .*num_heads 5"):
        build_mixer(name, 12, 5, MIXERS[name].dims[0])
    with pytest.raises(ValueError, match="2 or 3, got 4"):
        build_mixer(name, 12, 3, 4)
    for dims in {2, 3} - set(MIXERS[name].dims):
        with pytest.raises(ValueError, match=f"not of {dims}: choose another mixer"):
            build_mixer(name, 12, 3, dims)


@pytest.mark.parametrize("name", [name for name, cls in MIXERS.items() if cls.fixed_grid])
def test_fixed_grid(name: str) -> None:
    dims = MIXERS[name].dims[0]
    for grid, message in [(None, "give it as grid="), ((4,), "numbers of tokens, got (4,)")]:
        with pytest.raises(ValueError, match=re.escape(message)):
            build_mixer({"name": name, "grid": grid}, DIM, HEADS, dims)


def test_unknown_mixer() -> None:
    with pytest.raises(ValueError, match="'seqnrm'") as error:
        build_mixer("seqnrm", DIM, HEADS, 2)
    assert all(name in str(error.value) for name in MIXERS) and "Did you mean 'seqnorm'?" in str(error.value)
    for spec in ({"scale": "n"}, 3):
        with pytest.raises(ValueError, match="name"):
            build_mixer(spec, DIM, HEADS, 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "softmax", "attn_drop_rate": 1.5}, "between 0 and 1, got 1.5"),
        ({"name": "seqnorm", "scale": "max"}, "'n', 'sqrt_n', got 'max'"),
        ({"name": "hyena_nd", "filter": "sum"}, "'published_product', got 'sum'"),
        ({"name": "hyena_nd", "short_kernel": 4}, "odd number of taps, got 4"),
        ({"name": "hyena_nd", "omega": 0}, "above 0, got 0"),
        ({"name": "hyena_nd", "filter_layers": 0}, "at least 1, got 32 and 0"),
    ],
    ids=str,
)
def test_bad_values(spec: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_mixer(spec, DIM, HEADS, 2)


def test_defaults_of_a_network() -> None:
    """They go where they are known, and what the config says comes first."""
    assert build_mixer("linear", DIM, HEADS, 2, qkv_bias=True, attn_drop_rate=0.1).qkv.bias is not None
    assert build_mixer({"name": "linear", "qkv_bias": False}, DIM, HEADS, 2, qkv_bias=True).qkv.bias is None
    assert build_mixer("seqnorm", DIM, HEADS, 2, qkv_bias=True).qkv.bias is None
