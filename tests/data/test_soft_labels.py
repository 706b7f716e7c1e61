"""Labels beside what teachers say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import AsDiscreted, Compose, RandFlipd
from torch import nn

from monai_ext.data.soft_labels import SoftLabeld


def teacher(seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Conv3d(1, classes, 3, padding=1)


def item() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    affine = torch.diag(torch.tensor([2.0, 1, 1, 1]))
    label = torch.nn.functional.one_hot(torch.randint(3, (5, 6, 7)), 3).movedim(-1, 0)
    return {"image": MetaTensor(torch.randn(1, 5, 6, 7)), "label": MetaTensor(label, affine=affine)}


def test_is_the_mixture(tmp_path: Path) -> None:
    """Of probabilities, with the networks in eval mode and weights from files; the rest of the item stays."""
    paths = [tmp_path / f"{i}.pt" for i in range(2)]
    for i, path in enumerate(paths):
        torch.save(teacher(i).state_dict(), path)
    data = item()
    soften = SoftLabeld("label", "image", [teacher(8), teacher(9)], paths, share=0.3)
    out = soften(data)
    with torch.no_grad():
        said = sum(teacher(i)(data["image"].as_tensor()[None])[0].softmax(0) for i in range(2)) / 2
    torch.testing.assert_close(out["label"].as_tensor(), 0.7 * data["label"].as_tensor() + 0.3 * said)
    assert out["image"] is data["image"] and not out["label"].requires_grad
    assert torch.equal(out["label"].affine, data["label"].affine)
    assert data["label"].dtype == torch.int64


def test_ends_of_the_share_and_windows() -> None:
    data = item()
    none = SoftLabeld("label", "image", [teacher()], share=0)(data)["label"]
    assert torch.equal(none.as_tensor(), data["label"].as_tensor().float())
    whole = SoftLabeld("label", "image", [teacher()], share=1)(data)["label"]
    by_windows = SoftLabeld("label", "image", [teacher()], share=1, inferer=SlidingWindowInferer((8, 8, 8)))(data)
    torch.testing.assert_close(by_windows["label"].as_tensor(), whole.as_tensor())
    torch.testing.assert_close(whole.sum(0).as_tensor(), torch.ones(5, 6, 7))


def test_among_other_transforms() -> None:
    data = {"image": torch.randn(1, 5, 6, 7), "label": torch.randint(3, (1, 5, 6, 7))}
    chain = [AsDiscreted("label", to_onehot=3), SoftLabeld("label", "image", [teacher()])]
    flipped = Compose([*chain, RandFlipd(["image", "label"], prob=1, spatial_axis=0)])(data)["label"]
    torch.testing.assert_close(flipped.flip(1), Compose(chain)(data)["label"])


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one teacher"):
        SoftLabeld("label", "image", [])
    with pytest.raises(ValueError, match="each of 1 teachers needs a file of weights, got 2"):
        SoftLabeld("label", "image", [teacher()], ["a", "b"])
    with pytest.raises(ValueError, match=r"share must lie between 0 and 1, got 1\.5"):
        SoftLabeld("label", "image", [teacher()], share=1.5)
    with pytest.raises(FileNotFoundError, match=r"no file .*a\.pt"):
        SoftLabeld("label", "image", [teacher()], [tmp_path / "a.pt"])
    with pytest.raises(ValueError, match=r"label .*is \(1, 5, 6, 7\), but the teachers say \(3, 5, 6, 7\)"):
        SoftLabeld("label", "image", [teacher()])({**item(), "label": torch.zeros(1, 5, 6, 7)})
    with pytest.raises(ValueError, match=r"but the teachers say \(4, 5, 6, 7\)"):
        SoftLabeld("label", "image", [teacher(classes=4)])(item())
