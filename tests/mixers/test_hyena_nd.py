"""What the Hyena mixer promises beyond the contract."""

from __future__ import annotations

import math

import pytest
import torch

from monai_ext.mixers.hyena_nd import HyenaNDMixer, ImplicitFilter
from monai_ext.ops.long_convolution import long_convolution

GRIDS = {2: (5, 4), 3: (3, 4, 3)}
each_filter = pytest.mark.parametrize("filter", ["joint", "product"])
each_dim = pytest.mark.parametrize("dims", [2, 3], ids=["2D", "3D"])
each_side = pytest.mark.parametrize("bidirectional", [True, False], ids=["both_sides", "causal"])


@each_filter
@each_dim
@each_side
def test_impulse_response(filter: str, dims: int, bidirectional: bool) -> None:
    """A token in the middle reaches the whole grid, or all that lies ahead of it along every axis and nothing else."""
    grid = GRIDS[dims]
    mixer = HyenaNDMixer(6, 2, dims, filter=filter, bidirectional=bidirectional).double()
    assert mixer.causal != bidirectional
    middle = tuple(g // 2 for g in grid)
    x = torch.randn(1, *grid, 6, dtype=torch.float64)
    changed = x.clone()
    changed[(0, *middle)] += 1
    outs = [mixer(t.reshape(1, -1, 6), grid).reshape(*grid, 6) for t in (x, changed)]
    reached = (outs[0] - outs[1]).abs().amax(-1) > 1e-13  # what lies below is the rounding of the FFT
    ahead = torch.stack(torch.meshgrid(*[torch.arange(g) >= m for g, m in zip(grid, middle)], indexing="ij")).all(0)
    assert torch.equal(reached, torch.ones_like(ahead) if bidirectional else ahead)


@each_filter
@each_side
def test_options_train(filter: str, bidirectional: bool) -> None:
    mixer = HyenaNDMixer(6, 2, 3, True, filter, bidirectional, filter_dim=5, filter_layers=2, omega=2.0, short_kernel=1)
    mixer(torch.randn(2, 30, 6), (5, 2, 3)).sin().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in mixer.parameters())


@each_side
def test_kernel_of_a_small_grid_is_part_of_that_of_a_large_one(bidirectional: bool) -> None:
    """Offsets count in tokens, whatever the grid: only the gain of each channel differs."""
    kernels = ImplicitFilter(4, 2, 8, 3, 3.0).double()
    small, large = kernels((3, 4), not bidirectional), kernels((7, 9), not bidirectional)
    part = large[:, 4:9, 5:12] if bidirectional else large[:, :3, :4]
    assert small.shape == part.shape
    ratio = (small / part).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert (ratio > 0).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_translation(dims: int) -> None:
    """An image that moves within an empty surrounding moves the convolution with it."""
    grid = (9, 8, 7)[:dims]
    kernel = ImplicitFilter(3, dims, 8, 2, 3.0)(grid, False)
    x, moved = torch.zeros(2, 1, 3, *grid).unbind(0)
    image = torch.randn(1, 3, *[2] * dims)
    x[(..., *[slice(1, 3)] * dims)] = image
    moved[(..., *[slice(4, 6)] * dims)] = image
    a = long_convolution(x, kernel)[(..., *[slice(0, g - 3) for g in grid])]
    b = long_convolution(moved, kernel)[(..., *[slice(3, g) for g in grid])]
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@each_filter
@pytest.mark.parametrize("grid", [(8, 8), (128, 128), (4, 4, 4), (25, 25, 25), (1, 64)], ids=str)
def test_output_is_as_large_as_the_input(filter: str, grid: tuple[int, ...]) -> None:
    n, width = math.prod(grid), 16
    sizes = []
    with torch.no_grad():
        for _ in range(4):
            mixer = HyenaNDMixer(width, 2, len(grid), filter=filter)
            noise, constant = torch.randn(1, n, width), torch.randn(1, 1, width).expand(1, n, width)
            sizes.append([mixer(x, grid).square().mean().sqrt() for x in (noise, constant)])
    noise, constant = torch.tensor(sizes).median(0).values
    assert 0.3 < noise < 2
    assert 0.1 < constant < 8


def test_filter_in_float32_in_a_bf16_module() -> None:
    kernels = ImplicitFilter(4, 2, 8, 3, 3.0)
    for p in kernels.parameters():
        p.data = p.data.bfloat16().float()
    wanted = kernels((6, 5), False)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(kernels((6, 5), False), wanted)
    torch.testing.assert_close(kernels.bfloat16()((6, 5), False), wanted)


def test_keeps_no_kernel() -> None:
    """Of the filter what its network makes is kept for the backward, not the kernel of every channel."""
    mixer, grid = HyenaNDMixer(48, 2, 2), (16, 16)
    sizes: dict[int, int] = {}
    held = []

    def note(t: torch.Tensor) -> torch.Tensor:
        held.append(t)  # so that no address is used twice
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes() // t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = mixer(torch.randn(1, 256, 48), grid)
    assert out.requires_grad
    kernel, features, image = 48 * 31 * 31, 32 * 31 * 31, 48 * 256
    assert max(sizes.values()) < kernel
    parameters = sum(p.numel() for p in mixer.parameters())
    assert sum(sizes.values()) <= 6.5 * features + 13 * image + parameters


@each_filter
@pytest.mark.parametrize("dims", [2, 3], ids=["2D", "3D"])
def test_directions(filter: str, dims: int) -> None:
    """With short convolutions of one tap, what a token in the middle reaches."""
    grid = GRIDS[dims]
    middle = tuple(g // 2 for g in grid)
    places = list(zip(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), middle))
    ahead = torch.stack([at >= m for at, m in places]).all(0)
    behind = torch.stack([at <= m for at, m in places]).all(0)
    x = torch.randn(1, *grid, 6, dtype=torch.float64)
    changed = x.clone()
    changed[(0, *middle)] += 1
    for directions, layer, wanted in [
        ("causal", 0, ahead),
        ("alternate", 2, ahead),
        ("alternate", 3, behind),
        ("four", 0, torch.ones_like(ahead)),
    ]:
        mixer = HyenaNDMixer(6, 2, dims, filter=filter, directions=directions, layer=layer, short_kernel=1).double()
        assert (mixer.causal, mixer.local) == (directions == "causal", directions == "alternate")
        outs = [mixer(t.reshape(1, -1, 6), grid).reshape(*grid, 6) for t in (x, changed)]
        assert torch.equal((outs[0] - outs[1]).abs().amax(-1) > 1e-13, wanted), directions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": "seq"}, "'alternate', 'four', got 'seq'"),
        ({"directions": "four", "bidirectional": False}, "'four' looks both ways"),
    ],
    ids=str,
)
def test_bad_directions(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HyenaNDMixer(6, 2, 2, **options)


@pytest.mark.parametrize("filter", ["published", "published_product"])
@each_dim
def test_published_filter_is_causal(filter: str, dims: int) -> None:
    grid = GRIDS[dims]
    mixer = HyenaNDMixer(6, 2, dims, filter=filter, directions="causal", max_length=6).double()
    assert mixer.causal and not len(mixer.filters)
    x = torch.randn(1, math.prod(grid), 6, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(mixer(x, grid)[0, 7].sum(), x)
    size = grad[0].abs().amax(-1)
    assert size[:8].max() > 1e-6 and size[8:].max() < 1e-13 * max(1, size.max())  # the rounding of the FFT


def test_published_filter_starts_from_its_formula() -> None:
    z = HyenaNDMixer(6, 2, 2, filter="published", directions="four", max_length=5).published.z
    w = 1e-4 * 2 * math.pi / 5
    wanted = [[o / 4, math.cos(w * o), -math.sin(w * o)] for o in range(5)]
    torch.testing.assert_close(z.detach(), torch.tensor(wanted))


def test_published_filter_errors() -> None:
    with pytest.raises(ValueError, match="one sign: choose other directions than 'two_sided'"):
        HyenaNDMixer(6, 2, 2, filter="published", max_length=5)
    with pytest.raises(ValueError, match="'published_product' needs a max_length"):
        HyenaNDMixer(6, 2, 2, filter="published_product", directions="four")
    with pytest.raises(ValueError, match="at least 2 tokens for a published filter, got 1"):
        HyenaNDMixer(6, 2, 2, filter="published", directions="four", max_length=1)
    mixer = HyenaNDMixer(6, 2, 2, filter="published", directions="four", max_length=4)
    with pytest.raises(ValueError, match="longer than max_length 4"):
        mixer(torch.zeros(1, 15, 6), (3, 5))
