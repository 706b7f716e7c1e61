"""Mixed precision for any inferer, on a CPU as on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

DTYPES = ("auto", "float32", "bfloat16", "float16")


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # PyTorch has no public name for what the CPU can do
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return device.type == "cpu" and any(check() for check in checks if check is not None)


def _raised(out: Any) -> Any:
    """What is in a lower type in float32, also inside tuples, lists and dicts (a ViT gives its hidden states, too)."""
    if isinstance(out, torch.Tensor):
        return out.float() if out.dtype in (torch.bfloat16, torch.float16) else out
    if isinstance(out, (tuple, list)):
        return type(out)(_raised(part) for part in out)
    return {key: _raised(part) for key, part in out.items()} if isinstance(out, dict) else out


class AutocastInferer(Inferer):
    """Run the network of another inferer under ``torch.autocast`` and give its output back in float32.

    MONAI's engines know mixed precision on CUDA only (``amp=True``). Here the network alone runs in the lower type:
    losses, and the sums of a sliding window, stay in float32. bfloat16 has float32's range, so no gradient scaling
    is needed.

    Args:
        inferer: what calls the network; by default MONAI's ``SimpleInferer``.
        dtype: ``"bfloat16"`` or ``"float16"``; ``"float32"`` switches autocast off; ``"auto"`` is bfloat16 where the
            device computes in it, else float32.

    Raises:
        ValueError: for another type.
    """

    def __init__(self, inferer: Inferer | None = None, dtype: str = "auto") -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(repr, DTYPES))}, got {dtype!r}.")
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.dtype = dtype

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        dtype = self.dtype
        if dtype == "auto":
            dtype = "bfloat16" if has_bfloat16(inputs.device) else "float32"
        if dtype == "float32":
            return self.inferer(inputs, network, *args, **kwargs)

        def predictor(x: torch.Tensor, *a: Any, **k: Any) -> Any:
            with torch.autocast(x.device.type, getattr(torch, dtype)):
                out = network(x, *a, **k)
            return _raised(out)

        return self.inferer(inputs, predictor, *args, **kwargs)
