"""Let a module take the state dict of its MONAI counterpart as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch.nn as nn


def accept_monai_weights(
    module: nn.Module, renames: Sequence[tuple[str, str]] = (), drops: Sequence[str] = ()
) -> None:
    """Rename and drop keys of a MONAI state dict while ``module`` loads it.

    Keys of our own pass unchanged, so the same ``load_state_dict(strict=True)`` takes either.

    Args:
        module: the module that loads.
        renames: pairs of a regular expression, matched at the start of a key below ``module``, and its replacement;
            the first that matches is applied.
        drops: regular expressions of keys that have no counterpart (buffers that are computed here, parameters that
            MONAI creates and never uses).
    """

    def hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs) -> None:
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = key[len(prefix) :]
            if any(re.match(pattern, name) for pattern in drops):
                del state_dict[key]
                continue
            for pattern, replacement in renames:
                renamed, count = re.subn(f"^{pattern}", replacement, name)
                if count:
                    state_dict[prefix + renamed] = state_dict.pop(key)
                    break

    module.register_load_state_dict_pre_hook(hook)
