"""MONAI Label in this process: an app folder with bundles, images, and requests as its clients send them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from monai_ext.label.app import app_of_monailabel, set_up_app
from monai_ext.label.bundles import find_bundle
from tests.bundles.running import copy_of, workflow

# What makes a shipped bundle quick; its network and weights stay as they are.
SHORT: dict[str, Any] = {
    "num_workers": 0,
    "batch_size": 1,
    "iterations": 2,
    "learning_rate": 0.01,
    "warmup_epochs": 0,
    "val_interval": 1,
    "precision": "float32",
    "mirror_axes": [],
}


def short_copy(bundle: Path, folder: Path, **options: Any) -> Path:
    """A copy of a bundle whose training and inference are short."""
    return shorten(copy_of(bundle, folder / bundle.name), **options)


def shorten(bundle: Path, **options: Any) -> Path:
    """The bundle itself, its training and inference made short."""
    for path in (bundle / "configs" / "train.json", bundle / "configs" / "inference.json"):
        config = json.loads(path.read_text())
        config.update({key: value for key, value in {**SHORT, **options}.items() if key in config})
        path.write_text(json.dumps(config))
    return bundle


@dataclass
class Served:
    """A server in this process."""

    client: Any
    app_dir: Path
    studies: Path

    def bundle(self, name: str) -> Path:
        """The server's own copy."""
        return self.app_dir / "model" / name

    def info(self) -> dict[str, Any]:
        return self._json(self.client.get("/info/"))

    def infer(self, model: str, image: str, output: str = "image", **params: Any) -> Any:
        """The answer's JSON, or its file read: a volume as nibabel gives it, a picture as [H, W]."""
        data = {"params": json.dumps({"device": "cpu", **params})}
        answer = self.client.post(f"/infer/{model}?image={image}&output={output}", data=data)
        assert answer.status_code == 200, answer.text
        if output == "json":
            return answer.json()
        name = answer.headers["content-disposition"].split("filename=")[-1].strip('"')
        path = self.app_dir / "answers" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(answer.content)
        return nib.load(path) if name.endswith(".nii.gz") else np.asarray(Image.open(path))

    def submit(self, image: str, label: Path) -> None:
        """Save a label as an annotator does."""
        with label.open("rb") as file:
            self._json(
                self.client.put(f"/datastore/label?image={image}&tag=final", files={"label": (label.name, file)})
            )

    def train(self, model: str, **params: Any) -> None:
        self._json(self.client.post(f"/train/{model}?run_sync=true", json={"device": "cpu", **params}))

    def score(self, method: str, **params: Any) -> dict[str, Any]:
        return self._json(self.client.post(f"/scoring/{method}?run_sync=true", json={"device": "cpu", **params}))

    def images(self) -> dict[str, Any]:
        """What the data store knows of each image."""
        return self._json(self.client.get("/datastore/?output=all"))["objects"]

    @staticmethod
    def _json(answer: Any) -> Any:
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def serving(bundle: Path, studies: Path, app_dir: Path, **conf: str) -> Iterator[Served]:
    """Set an app folder up with the project's own code, and serve it."""
    from fastapi.testclient import TestClient
    from monailabel.app import app
    from monailabel.config import settings
    from monailabel.interfaces.utils.app import clear_cache

    set_up_app(app_dir, [find_bundle(str(bundle))], app_of_monailabel())
    settings.MONAI_LABEL_APP_DIR, settings.MONAI_LABEL_STUDIES = str(app_dir), str(studies)
    settings.MONAI_LABEL_APP_CONF = {"models": bundle.name, "zoo_source": "ngc", "sam2": "false", **conf}
    settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD = settings.MONAI_LABEL_AUTO_UPDATE_SCORING = False
    settings.MONAI_LABEL_SESSION_PATH = str(app_dir / "sessions")
    clear_cache()
    try:
        yield Served(TestClient(app), app_dir, studies)
    finally:
        clear_cache()


def own_inference(bundle: Path, image: Path, folder: Path, **options: Any) -> Path:
    """What the bundle itself makes of an image: the one file it writes, or its table of classes."""
    paths = {"dataset_dir": str(image), "output_dir": str(folder), "device": "$torch.device('cpu')"}
    flow = workflow(bundle, ["inference.json"], "infer", **paths, **options)
    flow.initialize()
    flow.run()
    flow.finalize()
    table = folder / "predictions.csv"
    if table.is_file():
        return table
    (file,) = [path for path in folder.iterdir() if path.is_file()]
    return file
