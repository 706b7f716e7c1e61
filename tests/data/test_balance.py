"""Every class is drawn equally often."""

from __future__ import annotations

import pytest
import torch

from monai_ext.data.balance import balanced_weights


def test_classes_weigh_the_same() -> None:
    labels = [0] * 90 + [1] * 9 + [2]
    items = [{"kind": label} for label in labels]
    weights = balanced_weights(items, "kind")
    assert sum(weights) == pytest.approx(1)
    for number in range(3):
        own = {weight for weight, label in zip(weights, labels) if label == number}
        assert len(own) == 1 and own.pop() * labels.count(number) == pytest.approx(1 / 3)
    drawn = torch.utils.data.WeightedRandomSampler(weights, 3000, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(torch.tensor([labels[place] for place in drawn]))
    assert counts.min() > 900
