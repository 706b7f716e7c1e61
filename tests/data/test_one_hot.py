"""Label maps from one channel a class."""

from __future__ import annotations

import pytest
import torch

from monai_ext.data.one_hot import ClassesOfChannelsd


def test_classes_of_channels() -> None:
    classes = torch.tensor([[0, 1, 2], [2, 0, 1]])
    whole = torch.nn.functional.one_hot(classes, 3).permute(2, 0, 1)
    for background, channels in ((True, whole), (False, whole[1:])):
        found = ClassesOfChannelsd("label", background)({"label": channels * 255})["label"]
        assert torch.equal(found.long(), classes[None])


def test_a_label_map_passes() -> None:
    label = torch.tensor([[[0.0, 3.0]]])
    assert ClassesOfChannelsd("label")({"label": label})["label"] is label


def test_channels_that_overlap() -> None:
    with pytest.raises(ValueError, match="channels that overlap"):
        ClassesOfChannelsd("label")({"label": torch.ones(2, 3, 3)})
