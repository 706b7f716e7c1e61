"""Let a module take the state dict of its MONAI counterpart as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch.nn as nn


def accept_monai_weights(module: nn.Module, renames: Sequence[tuple[str, str]] = (), drops: Sequence[str] = ()) -> None:
    """Rename and drop keys of a MONAI state dict while ``module`` loads it.

    Keys of our own pass unchanged, so the same ``load_state_dict(strict=True)`` takes either.

    Args:
        module: the module that loads.
        renames: pairs of a regular expression, matched at the start of a key below ``module``, and its replacement;
            the first that matches is applied.
        drops: regular expressions of keys that have no counterpart (buffers that are computed here, parameters that
            MONAI creates and never uses).
    """

    module.register_load_state_dict_pre_hook(_Keys(renames, drops))


class _Keys:
    """The hook, as an object with a name of its own: modules with a local function could not be pickled."""

    def __init__(self, renames: Sequence[tuple[str, str]], drops: Sequence[str]) -> None:
        self.renames, self.drops = tuple(renames), tuple(drops)

    def __call__(self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = key[len(prefix) :]
            if any(re.match(pattern, name) for pattern in self.drops):
                del state_dict[key]
                continue
            for pattern, replacement in self.renames:
                renamed, count = re.subn(f"^{pattern}", replacement, name)
                if count:
                    state_dict[prefix + renamed] = state_dict.pop(key)
                    break
