"""A bundle's files and network, with its own code at hand while one looks at it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from monai.bundle.scripts import _get_fake_input_shape  # what MONAI's own ckpt_export feeds a network with

__all__ = ["input_shape", "network_of", "on_path"]


@contextlib.contextmanager
def on_path(bundle: Path) -> Iterator[None]:
    """The bundle's folder on the path, as its user has it; its ``scripts`` are forgotten afterwards."""
    path = list(sys.path)

    def scripts() -> set[str]:
        return {name for name in sys.modules if name == "scripts" or name.startswith("scripts.")}

    before = {name: sys.modules.pop(name) for name in scripts()}
    sys.path.insert(0, str(bundle))
    try:
        yield
    finally:
        sys.path[:] = path
        for name in scripts():
            del sys.modules[name]
        sys.modules.update(before)


def parser_of(bundle: Path, *files: str) -> ConfigParser:
    """The configs of a bundle with its metadata, for use within ``on_path``."""
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / file) for file in files])
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    parser["bundle_root"] = str(bundle)
    return parser


def network_of(bundle: Path, net_id: str = "network_def") -> torch.nn.Module:
    """The network of ``configs/inference.json`` with the weights of ``models/model.pt``, on the CPU."""
    net = parser_of(bundle, "inference.json").get_parsed_content(net_id)
    state = torch.load(bundle / "models" / "model.pt", weights_only=True, map_location="cpu")
    net.load_state_dict(state, strict=True)
    return net.cpu().eval()


def input_shape(bundle: Path) -> tuple[int, ...]:
    """The shape (B, C, *spatial) of an input, by the metadata."""
    return tuple(_get_fake_input_shape(parser_of(bundle, "inference.json")))
