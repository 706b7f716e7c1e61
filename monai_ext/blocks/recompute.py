"""Activation checkpointing that leaves batch norms as one forward leaves them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn as nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


@contextlib.contextmanager
def _frozen(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Within, running statistics stay as they are: the first forward has counted the batch already."""
    before = [(n.momentum, None if n.num_batches_tracked is None else n.num_batches_tracked.clone()) for n in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before):
            norm.momentum = momentum
            if count is not None:
                norm.num_batches_tracked.copy_(count)


def recompute(module: nn.Module, *inputs: Any) -> Any:
    """``module(*inputs)``, whose activations are made anew in the backward instead of being kept."""
    if not torch.is_grad_enabled():
        return module(*inputs)
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    # a compiled graph changes the statistics in its forward alone
    if not norms or torch.compiler.is_compiling():
        return checkpoint(module, *inputs, use_reentrant=False)
    return checkpoint(
        module, *inputs, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _frozen(norms))
    )
