"""Mixed precision for any inferer, on a CPU as on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer


class AutocastInferer(Inferer):
    """Run the network of another inferer under ``torch.autocast`` and give its output back in float32.

    MONAI's engines know mixed precision on CUDA only (``amp=True``). Here the network alone runs in the lower type:
    losses, and the sums of a sliding window, stay in float32. bfloat16 has float32's range, so no gradient scaling
    is needed.

    Args:
        inferer: what calls the network; by default MONAI's ``SimpleInferer``.
        dtype: ``"bfloat16"`` or ``"float16"``; ``None`` or ``"float32"`` switches autocast off.

    Raises:
        ValueError: for another type.
    """

    def __init__(self, inferer: Inferer | None = None, dtype: str | None = "bfloat16") -> None:
        super().__init__()
        if dtype not in (None, "float32", "bfloat16", "float16"):
            raise ValueError(f"dtype must be 'float32', 'bfloat16' or 'float16', got {dtype!r}.")
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.dtype = None if dtype in (None, "float32") else getattr(torch, dtype)

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.dtype is None:
            return self.inferer(inputs, network, *args, **kwargs)

        def predictor(x: torch.Tensor, *a: Any, **k: Any) -> torch.Tensor:
            with torch.autocast(x.device.type, self.dtype):
                out = network(x, *a, **k)
            return out.float()

        return self.inferer(inputs, predictor, *args, **kwargs)
