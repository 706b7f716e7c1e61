"""What a study has to know of a bundle's config, and how it sets it."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

from monai.bundle import ComponentLocator, ConfigParser

from monai_ext.study.axes import Axis
from monai_ext.study.spec import Spec

NETWORK = ("network_def", "network")
# ids that name the size of a training image, in this order
IMAGE_SIZES = ("image_size", "patch_size", "roi_size", "spatial_size")
# where things are, and what has no bearing on the result
PLACES = (
    *("bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "model_path", "cache_dir"),
    *("resume", "num_workers", "device"),
)


class BundleConfig:
    """The training config of a study, before a trial's own settings.

    Args:
        spec: the study.

    Raises:
        ValueError: a config is no JSON or YAML, or a setting names an id that it does not have.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        try:
            self.content: dict[str, Any] = ConfigParser.load_config_files([str(f) for f in spec.config_files])
        except (ValueError, OSError) as error:
            files = ", ".join(file.name for file in spec.config_files)
            raise ValueError(f"the config {files} cannot be read ({' '.join(str(error).split())}).") from error
        # the same with the study's own settings
        self.applied = json.loads(json.dumps(self.content))
        if spec.bundle is not None and str(spec.bundle) not in sys.path:
            sys.path.insert(1, str(spec.bundle))  # its own modules
        for name, value in spec.settings.items():
            self.check(name, "set")
            parser = ConfigParser(self.applied)
            parser[name] = value
            self.applied = parser.get()
        if spec.dataset_dir is not None and not self.takes("dataset_dir"):
            raise ValueError(f"dataset_dir: the config of {self.name} has no such id; say by set where the data are.")

    @property
    def name(self) -> str:
        """The bundle's name, or that of its config."""
        return self.spec.bundle.name if self.spec.bundle else self.spec.config_files[0].stem

    def has(self, config_id: str) -> bool:
        return self.get(config_id, self) is not self

    def get(self, config_id: str, default: Any = None) -> Any:
        """The config's unparsed content at an id."""
        content: Any = self.applied
        for part in config_id.replace("::", "#").split("#"):
            if isinstance(content, Mapping) and part in content:
                content = content[part]
            elif isinstance(content, list) and part.isdigit() and int(part) < len(content):
                content = content[int(part)]
            else:
                return default
        return content

    def takes(self, config_id: str) -> bool:
        """Whether the config has the id, or it is an argument of a class that the config has, or mentioned there."""
        if self.has(config_id):
            return True
        parent, _, last = config_id.replace("::", "#").rpartition("#")
        owner = self.get(parent) if parent else None
        if isinstance(owner, Mapping) and "_target_" in owner:
            target = _class_of(str(owner["_target_"]))
            if target is None:  # what cannot be looked into is taken at its word
                return True
            known = inspect.signature(target).parameters.values()
            return any(parameter.name == last or parameter.kind is parameter.VAR_KEYWORD for parameter in known)
        if isinstance(owner, Mapping):
            return True
        return not parent and f"@{last}" in json.dumps(self.applied)

    def check(self, config_id: str, where: str) -> None:
        if not self.takes(config_id):
            raise ValueError(f"{where}: the config of {self.name} has no {config_id!r}.")

    def id_of(self, axis: Axis) -> str:
        """The config id that an axis sets.

        Raises:
            ValueError: the bundle has none of the candidates.
        """
        for candidate in axis.ids:
            if self.takes(candidate):
                return candidate
        raise ValueError(
            f"axes: {axis.name} would set {' or '.join(axis.ids)}, which the config of {self.name} does not have; "
            f"say which it is, {axis.name}: {{id: CONFIG_ID, values: [...]}}."
        )

    def settings(self, axes: Sequence[Axis], values: Sequence[Any]) -> dict[str, Any]:
        """Config ids and what a trial sets them to.

        Raises:
            ValueError: an axis that the bundle does not have, or two that set the same id.
        """
        found: dict[str, Any] = {}
        for axis, value in zip(axes, values):
            point = dict(value) if not axis.ids else {self.id_of(axis): value}
            for config_id, item in point.items():
                self.check(config_id, f"axes: {axis.name}")
                if config_id in found:
                    raise ValueError(f"axes: {axis.name} sets {config_id}, as another axis does.")
                found[config_id] = item
        return found

    def parser(self, settings: Mapping[str, Any]) -> ConfigParser:
        """A parser of the config with the study's and a trial's settings."""
        parser = ConfigParser(json.loads(json.dumps(self.content)))
        parser.update(pairs={**self.places(), **self.spec.settings, **settings})
        return parser

    def places(self) -> dict[str, Any]:
        """Where the bundle and its data are."""
        found: dict[str, Any] = {}
        if self.spec.bundle is not None and self.has("bundle_root"):
            found["bundle_root"] = str(self.spec.bundle)
        if self.spec.dataset_dir is not None:
            found["dataset_dir"] = str(Path(self.spec.dataset_dir).expanduser().absolute())
        return found

    def key(self, settings: Mapping[str, Any]) -> str:
        """What tells a trial from any other: its config with all settings, the budget and the metric.

        Where the data and the results are is left out, so that machines with other folders share a study.
        """
        content = {name: item for name, item in self.content.items() if name not in PLACES}
        fixed = {name: item for name, item in self.spec.settings.items() if name not in PLACES}
        judged = [self.spec.metric.name, self.spec.metric.split, self.spec.metric.at, self.spec.metric.maximize]
        if self.spec.metric.split == "test":
            judged.append(ConfigParser.load_config_files([str(file) for file in self.spec.evaluate_files]))
        whole = [self.name, content, fixed, dict(settings), dict(self.spec.budget), judged]
        if not self.spec.train:
            whole.append("measured only")
        return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def network_id(self) -> str:
        """The id of the network's definition.

        Raises:
            ValueError: there is none.
        """
        for name in NETWORK:
            if isinstance(self.get(name), Mapping) and "_target_" in self.get(name):
                return name
        raise ValueError(f"the config of {self.name} has no network_def or network that is a class with arguments.")

    def image_shape(self, parser: ConfigParser) -> tuple[int, int, tuple[int, ...]]:
        """Batch, channels and size of the training images, from the study's `input` or the config.

        Raises:
            ValueError: neither tells.
        """
        given = dict(self.spec.input)
        network = self.network_id()
        size = given.get("size") or next((f"@{name}" for name in IMAGE_SIZES if self.has(name)), None)
        channels = given.get("channels", f"@{network}#in_channels" if self.takes(f"{network}#in_channels") else None)
        loader = "train#dataloader#batch_size"
        batch = given.get("batch", f"@{loader}" if self.has(loader) else "@batch_size" if self.has("batch_size") else 1)
        found = []
        for what, value in (("size", size), ("channels", channels), ("batch", batch)):
            if value is None:
                raise ValueError(f"input: say the {what} of a training image (input: {{{what}: ...}}).")
            refers = isinstance(value, str) and value.startswith("@")
            found.append(parser.get_parsed_content(value[1:]) if refers else value)
        dims = self._dims(parser, network)
        sizes = [found[0]] * dims if isinstance(found[0], int) else list(found[0])
        return int(found[2]), int(found[1]), tuple(int(side) for side in sizes)

    def _dims(self, parser: ConfigParser, network: str) -> int:
        return int(parser.get_parsed_content(f"{network}#spatial_dims")) if self.has(f"{network}#spatial_dims") else 3


def _class_of(name: str) -> Any:
    """The class or function of a `_target_`, which may be a bare name of MONAI's; None where it is not found."""
    module = None if "." in name else ComponentLocator().get_component_module_name(name)
    modules = [module] if isinstance(module, str) else module or [None]
    return locate(f"{modules[0]}.{name}" if modules[0] else name)
