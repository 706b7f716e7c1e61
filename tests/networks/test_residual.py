"""The network around a residual."""

from __future__ import annotations

import pytest
import torch

from monai_ext.networks import MixerUNETR, ResidualNetwork

OPTIONS = {"img_size": 16, "hidden_size": 12, "mlp_dim": 16, "num_heads": 3, "feature_size": 4, "patch_size": 4}


@pytest.mark.parametrize("size", [(13, 9), (9, 7, 11)], ids=["2D", "3D"])
def test_it_adds_the_input(size: tuple[int, ...]) -> None:
    inner = MixerUNETR(in_channels=1, out_channels=1, spatial_dims=len(size), num_layers=2, **OPTIONS)
    network, x = ResidualNetwork(network=inner), torch.randn(2, 1, *size)
    torch.testing.assert_close(network(x) - inner(x), x)
    assert list(network.state_dict()) == [f"network.{key}" for key in inner.state_dict()]
    network(x).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_wrong_channels() -> None:
    with pytest.raises(ValueError, match="gives 3 channels for 1, a residual needs as many"):
        ResidualNetwork(torch.nn.Conv2d(1, 3, 1))(torch.zeros(1, 1, 4, 5))


def test_dropout_reaches_the_network() -> None:
    options = {"in_channels": 1, "out_channels": 1, "spatial_dims": 2, "num_layers": 2, **OPTIONS}
    network, x = ResidualNetwork(MixerUNETR(**options), dropout=0.5), torch.randn(1, 1, 13, 9)
    assert not torch.equal(network(x), network(x))
    torch.testing.assert_close(network.eval()(x), network(x))
    plain = ResidualNetwork(MixerUNETR(**options))
    torch.testing.assert_close(plain(x), plain(x))


def test_wrong_dropout() -> None:
    with pytest.raises(ValueError, match=r"dropout must lie between 0 and 1, got 1\.5"):
        ResidualNetwork(MixerUNETR(in_channels=1, out_channels=1, spatial_dims=2, num_layers=2, **OPTIONS), dropout=1.5)
    with pytest.raises(ValueError, match=r"Conv2d has no dropout layer whose rate could be 0\.2"):
        ResidualNetwork(torch.nn.Conv2d(1, 1, 1), dropout=0.2)
