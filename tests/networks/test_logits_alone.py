"""Classifiers that give their logits and nothing else, for training engines."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_ext.networks import MixerSwin, MixerViT

CLASSIFIERS: dict[str, tuple[type[torch.nn.Module], dict[str, Any]]] = {
    "vit": (MixerViT, {"img_size": 16, "patch_size": 8, "hidden_size": 12, "mlp_dim": 16, "num_layers": 2}),
    "swin": (MixerSwin, {"depths": (2, 1), "window_size": 3, "feature_size": 8, "mlp_ratio": 2.0}),
}
HEADS = {"vit": 3, "swin": (2, 4)}


def build(name: str, hidden_states: bool, dims: int = 2, **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    cls, defaults = CLASSIFIERS[name]
    options = {"in_channels": 2, "classification": True, "num_classes": 3, **options}
    return cls(**defaults, num_heads=HEADS[name], spatial_dims=dims, hidden_states=hidden_states, **options).eval()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_same_logits(name: str, dims: int) -> None:
    beside, alone = (build(name, hidden_states, dims) for hidden_states in (True, False))
    x = torch.randn(2, 2, *(16, 16, 16)[:dims])
    logits, hidden = beside(x)
    found = alone(x)
    assert isinstance(found, torch.Tensor) and found.shape == (2, 3) and len(hidden) > 1
    assert torch.equal(found, logits)
    alone.load_state_dict(beside.state_dict(), strict=True)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_trace(name: str) -> None:
    """What `torch.jit.trace` takes: one tensor comes out."""
    net, x = build(name, hidden_states=False), torch.randn(2, 2, 16, 16)
    traced = torch.jit.trace(net, x)
    other = torch.randn(2, 2, 16, 16)
    torch.testing.assert_close(traced(other), net(other), atol=1e-5, rtol=1e-5)


def test_encoders() -> None:
    """A ViT without a head still gives its tokens, a Swin without a head would give nothing."""
    with pytest.raises(ValueError, match="hidden_states=False leaves an encoder nothing to give: set classification"):
        build("swin", hidden_states=False, classification=False)
    tokens = build("vit", hidden_states=False, classification=False)(torch.zeros(1, 2, 16, 16))
    assert tokens.shape == (1, 4, 12)
