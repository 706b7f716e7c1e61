"""A bundle that is soon exported and checked: a tiny network, whole in every other way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

SHIPPED = "hippocampus_mri_segmentation"
SMALL = {"feature_size": 8, "window_size": 4, "depths": [1, 1], "num_heads": [1, 2]}


def make(folder: Path, repository: Path, **network: Any) -> Path:
    """The hippocampus bundle with a small network and weights that were never trained."""
    bundle = folder / "toy_mri_segmentation"
    shutil.copytree(
        repository / "bundles" / SHIPPED, bundle, ignore=shutil.ignore_patterns("eval", "runs", "*.pt", "*.png")
    )
    (bundle / "docs" / "README.md").write_text(
        "\n\n".join(
            f"# {title}"
            for title in (
                *("Overview", "Data", "Preprocessing", "Training", "Input", "Output", "Performance"),
                *("Commands", "Limits", "References", "Licence"),
            )
        )
    )
    for name in ("train", "inference"):
        change(bundle, name, lambda content: content["network_def"].update({**SMALL, **network}))
    for side, tensor in (("inputs", "image"), ("outputs", "pred")):
        change(
            bundle,
            "metadata",
            lambda c, s=side, t=tensor: c["network_data_format"][s][t].update(spatial_shape=[16] * 3),
        )
    save_weights(bundle)
    return bundle


def change(bundle: Path, config: str, how: Any) -> None:
    """Edit a config in place."""
    path = bundle / "configs" / f"{config}.json"
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content, indent=4))


def save_weights(bundle: Path) -> None:
    parser = ConfigParser(ConfigParser.load_config_files([str(bundle / "configs" / "inference.json")]))
    torch.manual_seed(0)
    (bundle / "models").mkdir(exist_ok=True)
    torch.save(parser.get_parsed_content("network_def").state_dict(), bundle / "models" / "model.pt")
