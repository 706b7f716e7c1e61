"""A bundle that trains in a second: classes of tiny volumes, with everything a study hangs on to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

CASES = {"train": 8, "validation": 4, "test": 4}


def write_data(folder: Path) -> Path:
    """Bright and dark volumes, NIfTI, with a list of them."""
    rng = np.random.default_rng(0)
    lists: dict[str, list[dict[str, Any]]] = {}
    for split, count in CASES.items():
        lists[split] = []
        for i in range(count):
            path = folder / f"{split}_{i}.nii.gz"
            volume = rng.normal(2.0 * (i % 2), 1, (8, 8, 8)).astype(np.float32)
            folder.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(volume, np.eye(4)), path)
            lists[split].append({"image": path.name, "label": i % 2})
    (folder / "list.json").write_text(json.dumps(lists))
    return folder


def write_bundle(folder: Path) -> Path:
    """The toy's folder, with train.json and evaluate.json."""
    load = [
        {
            "_target_": "monai_ext.data.transforms.LoadVolumed",
            "keys": "image",
            "ensure_channel_first": True,
        },
        {"_target_": "monai_ext.data.transforms.CheckVolumed", "keys": "image"},
    ]

    def dataset(split: str) -> dict[str, Any]:
        data = f"$listed(@dataset_dir, '{split}')"
        transform = {"_target_": "monai.transforms.Compose", "transforms": "@transforms"}
        return {"_target_": "monai.data.Dataset", "data": data, "transform": transform}

    def loader(part: str, shuffle: bool) -> dict[str, Any]:
        return {
            "_target_": "monai.data.DataLoader",
            "dataset": f"@{part}#dataset",
            "batch_size": "@batch_size",
            "shuffle": shuffle,
            "num_workers": 0,
        }

    metric = {
        "accuracy": {
            "_target_": "monai_ext.handlers.class_metrics.ClassMetric",
            "metric": "accuracy",
            "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
        }
    }
    softmax = {"_target_": "monai.transforms.Activationsd", "keys": "pred", "softmax": True}
    handlers = "monai_ext.handlers"
    train = {
        "imports": ["$from tests.study.toy_data import listed"],
        "dataset_dir": "data",
        "output_dir": "runs",
        "model_path": "$@output_dir + '/model.pt'",
        "device": "$torch.device('cpu')",
        "seed": 7,
        "resume": False,
        "max_epochs": 3,
        "batch_size": 2,
        "val_interval": 2,
        "learning_rate": 0.01,
        "image_size": [8, 8, 8],
        "pause": 0.0,
        "transforms": load,
        "network_def": {
            "_target_": "monai_ext.networks.MixerViT",
            "in_channels": 1,
            "img_size": "@image_size",
            "patch_size": 4,
            "hidden_size": 12,
            "mlp_dim": 24,
            "num_layers": 2,
            "num_heads": 2,
            "mixer": "softmax",
            "classification": True,
            "num_classes": 2,
            "post_activation": "none",
            "hidden_states": False,
        },
        "network": "$@network_def.to(@device)",
        "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "params": "$@network.parameters()",
            "lr": "@learning_rate",
        },
        "train": {
            "dataset": dataset("train"),
            "dataloader": loader("train", True),
            "inferer": {
                "_target_": "tests.study.toy_data.PausingInferer",
                "seconds": "@pause",
                "calls": "$@output_dir + '/calls.txt'",
            },
            "handlers": [
                {"_target_": f"{handlers}.epoch_seed.EpochSeedHandler", "seed": "@seed"},
                {
                    "_target_": "monai.handlers.ValidationHandler",
                    "validator": "@validate#evaluator",
                    "epoch_level": True,
                    "interval": "@val_interval",
                },
                {
                    "_target_": f"{handlers}.training_state.TrainingStateHandler",
                    "path": "$@output_dir + '/training_state.pt'",
                    "network": "@network",
                    "optimizer": "@optimizer",
                    "evaluator": "@validate#evaluator",
                    "resume": "@resume",
                },
            ],
            "trainer": {
                "_target_": "monai.engines.SupervisedTrainer",
                "max_epochs": "@max_epochs",
                "device": "@device",
                "train_data_loader": "@train#dataloader",
                "network": "@network",
                "loss_function": "@loss",
                "optimizer": "@optimizer",
                "inferer": "@train#inferer",
                "train_handlers": "@train#handlers",
            },
        },
        "validate": {
            "dataset": dataset("validation"),
            "dataloader": loader("validate", False),
            "inferer": {"_target_": "monai.inferers.SimpleInferer"},
            "postprocessing": {"_target_": "monai.transforms.Compose", "transforms": [softmax]},
            "key_metric": metric,
            "handlers": [
                {
                    "_target_": f"{handlers}.best_model.BestModelSaver",
                    "path": "@model_path",
                    "network": "@network",
                }
            ],
            "evaluator": {
                "_target_": "monai.engines.SupervisedEvaluator",
                "device": "@device",
                "val_data_loader": "@validate#dataloader",
                "network": "@network",
                "inferer": "@validate#inferer",
                "postprocessing": "@validate#postprocessing",
                "key_val_metric": "@validate#key_metric",
                "val_handlers": "@validate#handlers",
            },
        },
        "initialize": ["$monai.utils.set_determinism(seed=@seed)"],
        "run": ["$@train#trainer.run()"],
    }
    evaluate = {
        "imports": ["$from tests.study.toy_data import listed", "$from monai_ext.bundle.errors import load_weights"],
        "split": "test",
        "validate#dataset#data": "$listed(@dataset_dir, @split)",
        "validate#handlers": [],
        "initialize": ["$load_weights(@network, @model_path)"],
        "run": ["$@validate#evaluator.run()"],
    }
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "train.json").write_text(json.dumps(train, indent=1))
    (folder / "configs" / "evaluate.json").write_text(json.dumps(evaluate, indent=1))
    return folder


def write_study(folder: Path, **fields: Any) -> Path:
    """A study of the toy: its file, its bundle and its data in one folder."""
    if not (folder / "toy").is_dir():
        write_bundle(folder / "toy")
        write_data(folder / "data")
    content = {
        "name": "toy_study",
        "bundle": "toy",
        "dataset_dir": str(folder / "data"),
        "axes": {"mixer": ["softmax", "seqnorm"], "patch_size": [4, 2]},
        "budget": {"epochs": 3},
        "repeats": 2,
        "threads": 1,
        "output_dir": str(folder / "out"),
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({**content, **fields}, sort_keys=False))
    return path
