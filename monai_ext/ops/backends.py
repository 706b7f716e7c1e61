"""Which code runs an operator: plain PyTorch, or a package that has the same one."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping

import torch


def choose_backend(backend: str, known: Mapping[str, Callable[[], str | None]]) -> str:
    """The name of the code that runs: plain PyTorch (``"torch"``) can always be had.

    Args:
        backend: ``"auto"`` for the first of the packages that is able to run the case, else ``"torch"``; or a name.
        known: name of a package to a function that says in a sentence why it cannot run the case at hand, or None
            where it can.

    Raises:
        ValueError: for an unknown name, or one that is asked for and cannot run the case.
    """
    if backend == "torch":
        return backend
    if backend == "auto":
        return next((name for name, why_not in known.items() if why_not() is None), "torch")
    if backend not in known:
        raise ValueError(f"unknown backend {backend!r}; known ones: {', '.join(['auto', 'torch', *known])}.")
    reason = known[backend]()
    if reason is not None:
        raise ValueError(f"backend {backend!r} cannot run this: {reason} Use backend='auto' or 'torch'.")
    return backend


def check_backend(backend: str, names: tuple[str, ...]) -> None:
    """Refuse an unknown name before anything runs.

    Raises:
        ValueError: for a name that is neither "auto" nor "torch" nor one of the packages.
    """
    if backend not in ("auto", "torch", *names):
        raise ValueError(f"unknown backend {backend!r}; known ones: {', '.join(['auto', 'torch', *names])}.")


@functools.cache
def why_not_installed(module: str) -> str | None:
    """A sentence where a module cannot be imported, else None; a package that is there may still fail to load."""
    if importlib.util.find_spec(module) is None:
        return f"the package {module} is not installed."
    try:
        importlib.import_module(module)
    except Exception as error:  # built for another PyTorch or CUDA: whatever it raises, plain PyTorch is there
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        return f"the package {module} is installed but does not load: {reason.rstrip('.')}."
    return None


def why_not_cuda(x: torch.Tensor) -> str | None:
    """A sentence where a tensor is not on a CUDA device, else None."""
    return None if x.is_cuda else f"it runs on CUDA alone, and the input is on {x.device.type}."
