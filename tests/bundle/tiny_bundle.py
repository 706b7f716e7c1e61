"""A bundle of a few lines, written into a folder, with images that a test may damage."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

LOGGING = """[loggers]
keys=root
[handlers]
keys=console
[formatters]
keys=plain
[logger_root]
level=INFO
handlers=console
[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stderr,)
[formatter_plain]
format=%(asctime)s - %(levelname)s - %(message)s
"""


def write_tiny_bundle(root: Path, workers: int = 0) -> list[str]:
    """Write bundle and data; the command that trains it."""
    random = np.random.default_rng(0)
    data = root / "data"
    data.mkdir(parents=True)
    (root / "configs").mkdir()
    items = []
    for number in range(2):
        image = random.normal(size=(8, 9, 7)).astype(np.float32)
        for key, array in (("image", image), ("label", (image > 0).astype(np.uint8))):
            nib.save(nib.Nifti1Image(array, np.eye(4)), data / f"{key}_{number}.nii.gz")
        items.append({key: f"{data}/{key}_{number}.nii.gz" for key in ("image", "label")})
    keys = ["image", "label"]
    config = {
        "imports": ["$import torch"],
        "bundle_root": str(root),
        "resume": False,
        "max_epochs": 2,
        "network": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1},
        "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.1},
        "train": {
            "dataset": {
                "_target_": "monai.data.Dataset",
                "data": items,
                "transform": {
                    "_target_": "monai.transforms.Compose",
                    "transforms": [
                        {
                            "_target_": "monai_ext.data.transforms.LoadVolumed",
                            "keys": keys,
                            "ensure_channel_first": True,
                        },
                        {"_target_": "monai_ext.data.transforms.CheckVolumed", "keys": keys, "num_classes": 2},
                    ],
                },
            },
            "handlers": [
                {"_target_": "monai.handlers.StatsHandler", "output_transform": "$lambda x: None"},
                {
                    "_target_": "monai_ext.handlers.training_state.TrainingStateHandler",
                    "path": "$@bundle_root + '/models/training_state.pt'",
                    "network": "@network",
                    "optimizer": "@optimizer",
                    "resume": "@resume",
                },
                {"_target_": "monai_ext.handlers.progress.LossProgressBar", "mininterval": 0},
            ],
            "trainer": {
                "_target_": "monai.engines.SupervisedTrainer",
                "device": "$torch.device('cpu')",
                "max_epochs": "@max_epochs",
                "train_data_loader": {
                    "_target_": "monai.data.DataLoader",
                    "dataset": "@train#dataset",
                    "num_workers": workers,
                },
                "network": "@network",
                "optimizer": "@optimizer",
                "loss_function": {"_target_": "monai.losses.DiceCELoss", "to_onehot_y": True, "softmax": True},
                "train_handlers": "@train#handlers",
            },
        },
        "initialize": [{"_target_": "monai_ext.bundle.errors.plain_errors"}],
        "run": ["$@train#trainer.run()"],
    }
    path = root / "configs" / "train.json"
    path.write_text(json.dumps(config))
    (root / "configs" / "logging.conf").write_text(LOGGING)
    return ["-m", "monai.bundle", "run", "--config_file", str(path)]
