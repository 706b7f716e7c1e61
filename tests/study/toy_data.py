"""What the toy bundle's config imports."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from monai.inferers import SimpleInferer


def listed(folder: str, split: str) -> list[dict[str, Any]]:
    """The cases of a split."""
    content = json.loads((Path(folder) / "list.json").read_text())
    return [{**item, "image": str(Path(folder) / item["image"])} for item in content[split]]


class PausingInferer(SimpleInferer):
    """Takes its time, so that a test can stop a training in the middle, and leaves a line for every step."""

    def __init__(self, seconds: float, calls: str) -> None:
        super().__init__()
        self.seconds, self.calls = seconds, calls

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(self.seconds)
        with Path(self.calls).open("a") as file:
            file.write("call\n")
        return super().__call__(inputs, network, *args, **kwargs)
