"""The head of UPerNet against its definition."""

from __future__ import annotations

import copy

import pytest
import torch

from monai_ext.blocks.uper_head import UPerHead
from tests.blocks import uper_reference as plain

GRIDS = {
    "2D": [(13, 11), (7, 6), (4, 3), (1, 2)],
    "2D_equal": [(5, 7)] * 3,
    "2D_one_map": [(7, 9)],
    "2D_uneven": [(9, 4), (9, 2), (5, 1)],
    "2D_one_pixel": [(3, 1), (1, 1)],
    "3D": [(7, 5, 6), (4, 3, 3), (2, 3, 2)],
    "3D_tiny": [(1, 2, 1), (1, 1, 1)],
}
NORMS = {"group": ("group", {"num_groups": 1}), "instance": "instance", "batch": "batch", "none": None}


def build(grids: list[tuple[int, ...]], **options: object) -> UPerHead:
    """In float64, with no parameter at a round value."""
    torch.manual_seed(0)
    head = UPerHead(len(grids[0]), [3 + i for i in range(len(grids))], 4, 2, **options).double()
    for parameter in head.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return head


def draw(grids: list[tuple[int, ...]], batch: int = 2) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, 3 + i, *grid, generator=rng, dtype=torch.float64).requires_grad_()
        for i, grid in enumerate(grids)
    ]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("grids", GRIDS)
def test_definition(grids: str, kind: str, batch: int) -> None:
    """Outputs and the gradients of every parameter and map, in training, down to a single value a channel."""
    sizes, pools = GRIDS[grids], (1, 2, 4, 6) if kind == "group" else (3, 1)
    shared = batch == 1
    head = build(sizes, norm_name=NORMS[kind], pool_sizes=pools, shared_smoothing=shared).train()
    maps, state = draw(sizes, batch), dict(head.named_parameters())
    leaves = [*state.values(), *maps]
    out, wanted = head(maps), plain.head(maps, state, kind, pools, shared)
    assert out.shape == (batch, 2, *sizes[0])
    torch.testing.assert_close(out, wanted, rtol=1e-9, atol=1e-9)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for found, expected in zip(torch.autograd.grad(out, leaves, weights), torch.autograd.grad(wanted, leaves, weights)):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_shared_smoothing() -> None:
    """One convolution for all levels: what as many equal ones give, with the sum of their gradients."""
    grids = GRIDS["2D"]
    own, shared, maps = build(grids), build(grids, shared_smoothing=True), draw(grids)
    assert (len(own.smoothing), len(shared.smoothing)) == (3, 1)
    state = {key: value for key, value in own.state_dict().items() if not key.startswith("smoothing")}
    for level in range(3):
        state |= {f"smoothing.{level}.{key}": value for key, value in shared.smoothing[0].state_dict().items()}
    own.load_state_dict(state)
    shared.load_state_dict({key: value for key, value in state.items() if key in shared.state_dict()})
    out, wanted = shared(maps), own(maps)
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)
    out.sin().sum().backward()
    wanted.sin().sum().backward()
    for key, parameter in shared.smoothing[0].named_parameters():
        total = sum(dict(block.named_parameters())[key].grad for block in own.smoothing)
        torch.testing.assert_close(parameter.grad, total)


@pytest.mark.parametrize(("kind", "arrives"), [("group", True), ("batch", True), ("instance", False)])
@torch.no_grad()
def test_the_mean_of_the_image(kind: str, arrives: bool) -> None:
    """Away from the borders the pooled map of one bin is a constant, which an instance norm takes out again."""
    head = build([(33, 33)], norm_name=NORMS[kind], pool_sizes=(1,))
    without = copy.deepcopy(head)
    for parameter in without.pooled.parameters():
        parameter.zero_()
    maps = draw([(33, 33)])
    inner = (..., slice(12, 21), slice(12, 21))
    out, other = head(maps)[inner], without(maps)[inner]
    change = ((out - other).norm() / out.norm()).item()
    assert change > 0.05 if arrives else change < 0.01, change


def test_checkpointing_counts_a_batch_once() -> None:
    results = []
    for use in (False, True):
        head, maps = build(GRIDS["2D"], norm_name="batch", dropout_rate=0.5, use_checkpoint=use), draw(GRIDS["2D"])
        torch.manual_seed(3)
        out = head(maps)
        out.sin().sum().backward()
        statistics = {key: value for key, value in head.state_dict().items() if "running" in key or "tracked" in key}
        results.append([out, *(m.grad for m in maps), *(p.grad for p in head.parameters()), *statistics.values()])
    assert len(results[0]) > 30
    for found, wanted in zip(*results):
        torch.testing.assert_close(found, wanted)


def test_dropout() -> None:
    """Whole channels before the classifier, in training alone."""
    head, maps = build([(5, 4)], dropout_rate=0.5), draw([(5, 4)])
    factors = head.dropout(torch.ones(16, 4, 5, 4))
    assert set(factors.flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(factors, factors[..., :1, :1].expand_as(factors))
    assert not torch.equal(head(maps), head(maps))
    assert torch.equal(head.eval()(maps), build([(5, 4)]).eval()(maps))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"in_channels": ()}, r"in_channels must name the channels of at least one map, got \(\)"),
        ({"in_channels": (3, 0)}, r"at least one map, got \(3, 0\)"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"pool_sizes": (1, 0)}, r"pool_sizes must name at least one number of bins, from 1, got \(1, 0\)"),
        ({"pool_sizes": ()}, r"pool_sizes .* got \(\)"),
        ({"dropout_rate": 1.5}, "dropout_rate must lie between 0 and 1, got 1.5"),
    ],
    ids=str,
)
def test_bad_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UPerHead(**{"spatial_dims": 2, "in_channels": (3, 4), "channels": 4, "out_channels": 2, **options})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(1, 3, 4, 4)], "built for 2 maps, got 1"),
        ([(1, 3, 4, 4), (1, 3, 2, 2)], r"map 1 must have 4 channels and 2 spatial dimensions, got .*\(1, 3, 2, 2\)"),
        ([(1, 3, 4, 4, 4), (1, 4, 2, 2)], "map 0 must have 3 channels and 2 spatial dimensions"),
        ([(1, 3, 4, 4), (1, 4, 2, 5)], r"finest first, but map 1 of \(2, 5\) is finer than .* of \(4, 4\)"),
    ],
    ids=str,
)
def test_wrong_maps(shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UPerHead(2, (3, 4), 4, 2)([torch.zeros(shape) for shape in shapes])
