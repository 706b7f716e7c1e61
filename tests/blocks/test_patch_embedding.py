"""Images to tokens, patch by patch."""

from __future__ import annotations

import itertools

import pytest
import torch

from monai_ext.blocks.patch_embedding import TokenEmbedding
from monai_ext.blocks.positions import resize_positions


@pytest.mark.parametrize("proj_type", ["conv", "perceptron"])
@pytest.mark.parametrize(
    ("size", "img_size", "patch"),
    [
        ((8, 9), (8, 9), (4, 3)),
        ((7, 5), (8, 9), (4, 3)),
        ((4, 6, 2), (4, 6, 4), (2, 3, 2)),
        ((1, 1, 1), (4, 4, 4), (2, 4, 2)),
    ],
    ids=str,
)
def test_tokens(proj_type: str, size: tuple[int, ...], img_size: tuple[int, ...], patch: tuple[int, ...]) -> None:
    embed = TokenEmbedding(2, img_size, patch, 6, proj_type)
    x = torch.randn(2, 2, *size)
    tokens, grid = embed(x)
    assert grid == tuple(-(-s // p) for s, p in zip(size, patch))
    layer = embed.patch_embeddings if proj_type == "conv" else embed.patch_embeddings[1]
    positions = resize_positions(embed.position_embeddings, embed.grid, grid)
    for number, place in enumerate(itertools.product(*map(range, grid))):
        # coordinates beyond the image repeat its last values
        coordinates = [[min(i * p + k, s - 1) for k in range(p)] for i, p, s in zip(place, patch, size)]
        values = x[(slice(None), slice(None), *torch.meshgrid(*map(torch.tensor, coordinates), indexing="ij"))]
        if proj_type == "perceptron":  # channels last
            values = values.movedim(1, -1)
        wanted = values.flatten(1) @ layer.weight.flatten(1).T + layer.bias + positions[:, number]
        torch.testing.assert_close(tokens[:, number], wanted, atol=1e-5, rtol=1e-5)


def test_image_of_img_size_loses_its_remainder() -> None:
    """As in MONAI; any other image is padded."""
    embed = TokenEmbedding(1, (9, 8), (4, 4), 4)
    x = torch.randn(1, 1, 9, 8)
    assert embed(x)[1] == (2, 2)
    torch.testing.assert_close(embed(x)[0], embed(x[:, :, :8])[0])
    assert embed(torch.randn(1, 1, 10, 8))[1] == (3, 2)


@pytest.mark.parametrize("kind", ["sincos", "fourier"])
def test_fixed_positions_take_no_gradient(kind: str) -> None:
    embed = TokenEmbedding(1, (4, 4, 8), (2, 2, 2), 12, pos_embed_type=kind)
    assert not embed.position_embeddings.requires_grad and embed.position_embeddings.shape == (1, 16, 12)
    assert embed(torch.randn(1, 1, 6, 4, 8))[0].shape == (1, 24, 12)
