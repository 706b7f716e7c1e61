"""Token mixers, and the table by which configs name them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from monai_ext.mixers.base import Mixer
from monai_ext.mixers.cross_scan import CrossScanMixer
from monai_ext.mixers.cvt import CvTMixer
from monai_ext.mixers.dct import DCTMixer
from monai_ext.mixers.dilated import DilatedMixer
from monai_ext.mixers.histogram import HistogramMixer
from monai_ext.mixers.hyena import HyenaMixer
from monai_ext.mixers.hyena_nd import HyenaNDMixer
from monai_ext.mixers.hyena_pixel import HyenaPixelMixer
from monai_ext.mixers.linear import LinearMixer
from monai_ext.mixers.linformer import LinformerMixer
from monai_ext.mixers.local import LocalMixer
from monai_ext.mixers.mamba import MambaMixer
from monai_ext.mixers.mambavision import MambaVisionMixer
from monai_ext.mixers.neighborhood import NeighborhoodMixer
from monai_ext.mixers.nystrom import NystromMixer
from monai_ext.mixers.performer import PerformerMixer
from monai_ext.mixers.reduced import ReducedMixer
from monai_ext.mixers.relu_linear import ReLULinearMixer
from monai_ext.mixers.retention import RetentionMixer
from monai_ext.mixers.scattering import ScatteringMixer
from monai_ext.mixers.scattering_3d import Scattering3DMixer
from monai_ext.mixers.seqnorm import SeqNormMixer
from monai_ext.mixers.sima import SimAMixer
from monai_ext.mixers.softmax import SoftmaxMixer
from monai_ext.mixers.strip import StripMixer
from monai_ext.mixers.vil import VilMixer
from monai_ext.mixers.vim import VimMixer

__all__ = ["MIXERS", "Mixer", "MixerSpec", "build_mixer", "count_alike", "mixer_options", "split_spec", "spread_mixers"]

MIXERS: dict[str, type[Mixer]] = {
    # softmax over all, fewer or neighbouring keys
    "softmax": SoftmaxMixer,
    "cvt": CvTMixer,
    "reduced": ReducedMixer,
    "strip": StripMixer,
    "neighborhood": NeighborhoodMixer,
    "local": LocalMixer,
    "dilated": DilatedMixer,
    "dct": DCTMixer,
    "histogram": HistogramMixer,
    # linear, set-like
    "linear": LinearMixer,
    "relu_linear": ReLULinearMixer,
    "performer": PerformerMixer,
    "nystrom": NystromMixer,
    "linformer": LinformerMixer,
    "seqnorm": SeqNormMixer,
    "sima": SimAMixer,
    # long convolutions
    "hyena": HyenaMixer,
    "hyena_nd": HyenaNDMixer,
    "hyena_pixel": HyenaPixelMixer,
    # state spaces
    "mamba": MambaMixer,
    "vim": VimMixer,
    "mambavision": MambaVisionMixer,
    "cross_scan": CrossScanMixer,
    # recurrent with a matrix for memory
    "vil": VilMixer,
    "retention": RetentionMixer,
    # spectral
    "scattering": ScatteringMixer,
    "scattering_3d": Scattering3DMixer,
}

MixerSpec = str | Mapping[str, Any]


def mixer_options(name: str) -> dict[str, inspect.Parameter]:
    """The options that a mixer's constructor takes beside ``dim``, ``num_heads`` and ``spatial_dims``.

    Raises:
        ValueError: for an unknown mixer; the message lists the known ones.
    """
    if name not in MIXERS:
        near = difflib.get_close_matches(str(name), MIXERS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown mixer {name!r}; known mixers: {', '.join(MIXERS)}.{hint}")
    parameters = inspect.signature(MIXERS[name].__init__).parameters
    return {key: p for key, p in parameters.items() if key not in ("self", "dim", "num_heads", "spatial_dims")}


def split_spec(spec: MixerSpec) -> tuple[str, dict[str, Any]]:
    """Name and options of the mixer that a config names.

    Raises:
        ValueError: for an unknown mixer or option; the message lists the known ones.
    """
    if isinstance(spec, str):
        name, options = spec, {}
    elif isinstance(spec, Mapping):
        options = dict(spec)
        name = options.pop("name", None)
        if name is None:
            raise ValueError(f"a mixer given as a dict needs the key 'name'; got the keys {sorted(spec)}.")
    else:
        raise ValueError(f"a mixer is a name or a dict with a name, got {spec!r} ({type(spec).__name__}).")
    known = mixer_options(name)
    unknown = [key for key in options if key not in known]
    if unknown:
        raise ValueError(
            f"the mixer {name!r} has no option {', '.join(map(repr, unknown))}; "
            f"its options: {', '.join(known) or 'none'}."
        )
    return name, options


def build_mixer(spec: MixerSpec, dim: int, num_heads: int, spatial_dims: int, **defaults: Any) -> Mixer:
    """Build the mixer that a config names.

    Args:
        spec: ``"seqnorm"``, or ``{"name": "seqnorm", "scale": "sqrt_n"}`` with options.
        dim: channels of a token.
        num_heads: heads.
        spatial_dims: 2 or 3.
        defaults: what a network offers, given to mixers that have such an option: ``qkv_bias``,
            ``attn_drop_rate``, ``grid`` (tokens along each axis for which it is made) and ``layer`` (see
            ``count_alike``). The options in ``spec`` come first.

    Raises:
        ValueError: for an unknown mixer or option; the message lists the known ones.
    """
    name, options = split_spec(spec)
    known = mixer_options(name)
    offered = {key: value for key, value in defaults.items() if key in known}
    return MIXERS[name](dim, num_heads, spatial_dims, **{**offered, **options})


def spread_mixers(spec: MixerSpec | Sequence[Any], depths: Sequence[int]) -> list[list[MixerSpec]]:
    """One mixer for every block, from what a config says.

    Args:
        spec: one mixer for all, or a list with one entry a stage; an entry may itself be a list with one
            mixer a block.
        depths: number of blocks of each stage.

    Returns:
        for each stage the mixers of its blocks

    Raises:
        ValueError: for a list whose length is not that of the stages (or of a stage's blocks).
    """
    if isinstance(spec, (str, Mapping)):
        return [[spec] * depth for depth in depths]
    if not isinstance(spec, Sequence):
        raise ValueError(f"a mixer is a name, a dict with a name or a list of these, got {spec!r}.")
    if len(spec) != len(depths):
        raise ValueError(f"the list of mixers has {len(spec)} entries for {len(depths)} stages: {list(spec)!r}.")
    stages: list[list[MixerSpec]] = []
    for number, (entry, depth) in enumerate(zip(spec, depths), start=1):
        if isinstance(entry, (str, Mapping)):
            stages.append([entry] * depth)
        elif isinstance(entry, Sequence) and len(entry) == depth:
            stages.append(list(entry))
        else:
            raise ValueError(f"stage {number} has {depth} blocks, its mixers are {entry!r}.")
    return stages


def count_alike(specs: Sequence[MixerSpec]) -> list[tuple[int, MixerSpec]]:
    """Each block's mixer with the number of blocks before it that have the same one.

    Mixers that alternate from block to block go by this number, so that they alternate where others stand between.
    """
    seen: dict[str, int] = {}
    numbered = []
    for spec in specs:
        name, _ = split_spec(spec)
        numbered.append((seen.get(name, 0), spec))
        seen[name] = seen.get(name, 0) + 1
    return numbered
