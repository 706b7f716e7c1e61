"""What is special to the mixers relu_linear, performer, nystrom and linformer."""

from __future__ import annotations

import pytest
import torch

from monai_ext.mixers import build_mixer


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "relu_linear", "min_denominator": 0}, "above 0, got 0"),
        ({"name": "performer", "num_features": 0}, "at least 1, or None for d ln d, got 0"),
        ({"name": "performer", "feature": "cos"}, "'exp', 'relu', got 'cos'"),
        ({"name": "nystrom", "landmarks": 0}, "at least 1, got 0 and 6"),
        ({"name": "nystrom", "segments": "odd"}, "'even', 'padded', got 'odd'"),
        ({"name": "nystrom", "conv_kernel": 4}, "odd number of taps, or 0 for none, got 4"),
        ({"name": "linformer", "rank": 0}, "at least 1, got 0"),
        ({"name": "linformer", "share": "layers"}, "'heads', 'kv', 'none', got 'layers'"),
        ({"name": "linformer", "attn_drop_rate": 2}, "between 0 and 1, got 2"),
    ],
    ids=str,
)
def test_bad_values(spec: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_mixer(spec, 12, 3, 2, grid=(4, 4))


def test_performer_directions() -> None:
    """They come from PyTorch's generator, take no part in training, and are loaded with the weights."""
    mixers = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        mixers.append(build_mixer("performer", 64, 2, 2))
    one, same, other = mixers
    assert one.projection.shape == (110, 32)  # 32 ln 32
    assert torch.equal(one.projection, same.projection) and not torch.equal(one.projection, other.projection)
    assert "projection" not in dict(one.named_parameters())
    x = torch.randn(1, 9, 64)
    assert not torch.allclose(one(x, (3, 3)), other(x, (3, 3)))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x, (3, 3)), other(x, (3, 3)))
    # heads of one channel have ln 1 = 0
    assert build_mixer("performer", 4, 4, 2).projection.shape == (1, 1)


@pytest.mark.parametrize("share", ["heads", "kv", "none"])
def test_linformer_parameters(share: str) -> None:
    for rank, wanted in ((7, 7), (99, 24)):
        mixer = build_mixer({"name": "linformer", "rank": rank, "share": share}, 12, 3, 3, grid=[2, 3, 4])
        assert mixer.key_projection.shape == ((3, 24, wanted) if share == "none" else (24, wanted))
        assert (mixer.value_projection is None) == (share == "kv")


@pytest.mark.parametrize("grid", [(16, 16), (128, 128)])
def test_linformer_keys_keep_their_size(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    mixer = build_mixer("linformer", 12, 3, 2, grid=grid)
    keys = mixer.key_projection.T @ torch.randn(grid[0] * grid[1], 4)
    assert 0.6 < keys.std() < 1.1


def test_linformer_drops_in_training_only() -> None:
    torch.manual_seed(0)
    mixer = build_mixer("linformer", 12, 3, 2, grid=(4, 4), attn_drop_rate=0.5)
    x = torch.randn(1, 16, 12)
    assert not torch.allclose(mixer(x, (4, 4)), mixer(x, (4, 4)))
    assert torch.equal(mixer.eval()(x, (4, 4)), mixer(x, (4, 4)))


def test_nystrom_reads_the_order_and_not_the_shape() -> None:
    torch.manual_seed(0)
    mixer, x = build_mixer({"name": "nystrom", "landmarks": 4}, 12, 3, 2), torch.randn(1, 24, 12)
    torch.testing.assert_close(mixer(x, (4, 6)), mixer(x, (2, 12)))
    assert not torch.allclose(mixer(x.flip(1), (4, 6)), mixer(x, (4, 6)))


def test_relu_linear_starts_small() -> None:
    """By the temperature of d^-1/2, and with few tokens by the bound on the denominator."""
    torch.manual_seed(0)
    mixer = build_mixer({"name": "relu_linear", "min_denominator": 1e-6}, 64, 4, 2)
    mixer.qkv.weight.data[128:] = 0
    mixer.qkv.bias = torch.nn.Parameter(torch.cat([torch.zeros(128), torch.ones(64)]))  # values of one
    mixer.proj = torch.nn.Identity()
    torch.testing.assert_close(mixer(torch.randn(1, 9, 64), (3, 3)), torch.full((1, 9, 64), 0.25))
    mixer.min_denominator = 100.0
    assert mixer(torch.randn(1, 9, 64), (3, 3)).max() < 0.25
