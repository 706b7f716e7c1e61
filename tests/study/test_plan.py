"""What a trial sets, what it will take, and why one is dropped."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_ext.bench.estimate import Speed, estimate, machine_speed
from monai_ext.bench.measure import peak_memory
from monai_ext.mixers import MIXERS
from monai_ext.networks import MixerSwinUNETR, MixerViT
from monai_ext.study.bundle_config import BundleConfig
from monai_ext.study.plan import keep_known, plan
from monai_ext.study.spec import load_spec
from tests.study.toy import write_study


def config_of(folder: Path, **fields: Any) -> BundleConfig:
    return BundleConfig(load_spec(str(write_study(folder, **fields))))


def vit(mixer: Any = "softmax", **options: Any) -> MixerViT:
    given = {"img_size": 32, "patch_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_layers": 2, "num_heads": 2}
    return MixerViT(1, spatial_dims=2, mixer=mixer, hidden_states=False, **{**given, **options})


def test_settings_are_those_of_the_axes(tmp_path: Path) -> None:
    config = config_of(
        tmp_path,
        axes={
            "mixer": ["softmax", {"name": "mamba", "d_state": 4}],
            "width": [12],
            "depth": [2],
            "learning_rate": [0.1],
            "seed": [5],
            "size": {"points": {"small": {"batch_size": 1, "network_def#mlp_dim": 8}}},
        },
    )
    trials = plan(config, math.inf)
    assert [dict(trial.axes)["mixer"] for trial in trials] == ["softmax", "mamba (d_state=4)"]
    assert trials[1].settings == {
        "network_def#mixer": {"name": "mamba", "d_state": 4},
        "network_def#hidden_size": 12,
        "network_def#num_layers": 2,
        "learning_rate": 0.1,
        "seed": 5,
        "batch_size": 1,
        "network_def#mlp_dim": 8,
    }
    assert [trial.reason for trial in trials] == ["", ""]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"axes": {"window_size": [4]}}, "window_size would set network_def#window_size, which the config"),
        (
            {"axes": {"network_def#hiden_size": [4]}},
            "would set network_def#hiden_size, which the config",
        ),
        ({"set": {"learning_rte": 4}}, "set: the config of toy has no 'learning_rte'"),
        (
            {"axes": {"width": [12], "size": {"points": {"a": {"network_def#hidden_size": 24}}}}},
            "sets network_def#hidden_size, as another axis does",
        ),
    ],
)
def test_what_the_bundle_does_not_have_is_named(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(config_of(tmp_path, **fields), math.inf)


def test_impossible_trials_are_dropped_with_the_reason(tmp_path: Path) -> None:
    config = config_of(tmp_path, axes={"mixer": ["softmax", "softmx"], "width": [12, 13]})
    trials = {tuple(trial.axes.values()): trial for trial in plan(config, math.inf)}
    assert trials["softmax", 12].reason == ""
    assert "unknown mixer 'softmx'" in trials["softmx", 12].reason
    assert "13" in trials["softmax", 13].reason and "2" in trials["softmax", 13].reason
    (large,) = plan(config_of(tmp_path, axes={"mixer": ["softmax"]}), 1000.0)
    assert large.reason == "needs about 0.0 GiB, and there are 0.0 GiB."


def test_tokens_steps_and_keys(tmp_path: Path) -> None:
    trials = plan(config_of(tmp_path, axes={"patch_size": [4, 2], "seed": [0, 1]}), math.inf)
    assert [(t.estimate.context, t.estimate.tokens) for t in trials if t.estimate] == [(8, 8), (64, 64)] * 2
    assert [t.steps for t in trials] == [12] * 4  # 3 epochs of 8 cases in batches of 2
    assert len({t.key for t in trials}) == 4
    again = plan(config_of(tmp_path, axes={"seed": [0, 1], "patch_size": [2, 4]}), math.inf)
    assert {t.key for t in again} == {t.key for t in trials}  # the order of the axes does not matter
    longer = plan(config_of(tmp_path, axes={"patch_size": [4, 2], "seed": [0, 1]}, budget={"epochs": 4}), math.inf)
    assert not {t.key for t in longer} & {t.key for t in trials}


def test_a_key_does_not_depend_on_where_the_data_is(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    moved = BundleConfig(dataclasses.replace(config.spec, dataset_dir="/elsewhere"))
    assert config.key({"seed": 1}) == moved.key({"seed": 1}) != config.key({"seed": 2})


def test_data_that_is_elsewhere_leaves_the_number_of_steps_open(tmp_path: Path) -> None:
    trials = plan(config_of(tmp_path, dataset_dir=str(tmp_path / "nowhere")), math.inf)
    assert all(trial.steps is None and trial.estimate and not trial.reason for trial in trials)


def test_axes_reach_into_what_the_study_sets(tmp_path: Path) -> None:
    network = {"in_channels": 1, "spatial_dims": 3, "feature_size": 12, "depths": [1]}
    network |= {"num_heads": [2], "classification": True, "hidden_states": False}
    network["_target_"] = "monai_ext.networks.MixerSwin"
    config = config_of(tmp_path, set={"network_def": network}, axes={"mixer": ["seqnorm"], "window_size": [2]})
    (trial,) = plan(config, math.inf)
    assert trial.reason == "" and trial.estimate is not None and trial.estimate.context == 8


def test_a_network_without_our_mixers_needs_a_context_axis(tmp_path: Path) -> None:
    network = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8]}
    network["strides"] = [2]
    axes = {"network_def#dropout": {"values": [0.0, 0.5], "labels": [10, 20]}}
    fields = {"set": {"network_def": network, "image_size": [32, 32, 32]}, "axes": axes}
    with pytest.raises(ValueError, match=r"context of .* is not known \(the network has none of this project's mixers"):
        plan(config_of(tmp_path, **fields), math.inf)
    trials = plan(config_of(tmp_path, **fields, context_axis="network_def#dropout"), math.inf)
    assert [trial.reason for trial in trials] == ["", ""]
    with pytest.raises(ValueError, match="has no 'network_def#dropout_rate'"):
        plan(config_of(tmp_path, **{**fields, "axes": {"x": {"points": {"a": {"network_def#dropout_rate": 1}}}}}), 1.0)


def test_what_is_in_the_storage_stays_in_the_plan(tmp_path: Path) -> None:
    planned = plan(config_of(tmp_path, axes={"patch_size": [4, 2]}), 1000.0)
    assert all(trial.reason for trial in planned)
    kept = keep_known(planned, {planned[1].key})
    assert kept[0].reason and not kept[1].reason


def test_the_size_of_an_image_may_be_said(tmp_path: Path) -> None:
    config = config_of(tmp_path, input={"size": [16, 8, 8], "batch": 3}, axes={"patch_size": [4]})
    (trial,) = plan(config, math.inf)
    assert trial.estimate is not None and trial.estimate.tokens == 16


@pytest.mark.parametrize("mixer", [name for name, kind in MIXERS.items() if 2 in kind.dims])
def test_every_mixer_can_be_estimated(mixer: str) -> None:
    found = estimate(vit(mixer), 2, 1, (32, 32))
    assert found.context == found.tokens == 64
    assert found.parameters == sum(p.numel() for p in vit(mixer).parameters())
    assert found.flops > 0 and found.traffic > 0


@pytest.mark.parametrize("mixer", ["softmax", "seqnorm"])  # windows without copies, and with
def test_windows_are_the_context_of_a_swin(mixer: str) -> None:
    net = MixerSwinUNETR(
        1, 2, spatial_dims=2, feature_size=12, depths=(1, 1), num_heads=(2, 2), window_size=8, mixer=mixer
    )
    found = estimate(net, 1, 1, (64, 64))
    assert found.context == 64 and found.tokens == 32 * 32


def test_flops_of_a_linear_layer_and_memory_of_its_input() -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32, bias=False), torch.nn.Tanh())
    found = estimate(net, 4, 1, (8, 8))
    assert found.context is None and found.parameters == 2048
    # forward, and the weight's gradient: the image needs none
    assert found.flops == 2 * (2 * 4 * 64 * 32)
    assert found.memory == 4 * 5 * 2048 + 4 * (4 * 64 + 4 * 32)  # weights and their copies, input and output


def test_fused_attention_is_counted_apart() -> None:
    found = estimate(vit(num_layers=1), 2, 1, (32, 32))
    # scores and their product with the values, forward; the backward makes both gradients, and the scores again
    assert found.attention == pytest.approx(3.5 * 4 * 2 * 64**2 * 24, rel=0.2)
    assert estimate(vit("seqnorm", num_layers=1), 2, 1, (32, 32)).attention == 0


def test_memory_is_about_what_a_step_takes() -> None:
    net = vit(img_size=128, hidden_size=48, mlp_dim=192, num_layers=4)
    guess = estimate(net, 2, 1, (128, 128))
    image = torch.randn(2, 1, 128, 128)
    net(image[..., :32, :32]).float().mean().backward()
    taken, method = peak_memory(lambda: net(image).float().mean().backward(), torch.device("cpu"))
    if method == "peak_rss":
        assert taken is not None and 0.3 < guess.memory / taken < 3, (guess.memory, taken)


def test_an_estimate_does_not_compute() -> None:
    net = vit(img_size=4096, patch_size=16, pos_embed_type="none")
    found = estimate(net, 8, 1, (4096, 4096))
    assert found.tokens == 65536 and found.seconds(Speed(1e9, 1e9, 1e9)) > 1
    assert all(parameter.grad is None or parameter.grad.shape == parameter.shape for parameter in net.parameters())


def test_speed_is_of_this_machine() -> None:
    speed = machine_speed(torch.device("cpu"), seconds=0.01)
    assert all(1e7 < one < 1e15 for one in speed)
