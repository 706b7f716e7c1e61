"""What is asked of a bundle that is to be shared, each question a function from its folder to what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from monai_ext.bundle.checks import configs, files, metadata, network
from monai_ext.bundle.checks.problems import NotChecked, Problem

__all__ = ["CHECKS", "NotChecked", "Problem"]

# Ordered: what the later ones read, the earlier ones have looked at. Called with the bundle's folder on the path.
CHECKS: dict[str, Callable[[Path], list[Problem]]] = {
    "required files": files.required_files,
    "licence": files.licence,
    "large files": files.large_files,
    "logging.conf": files.logging_conf,
    "documentation": files.documentation,
    "metadata": metadata.required_keys,
    "version and changelog": metadata.version,
    "tensors in the metadata": metadata.tensors,
    "required packages": metadata.packages,
    "checksums": metadata.checksums,
    "metadata against its schema": metadata.schema,
    "ids": configs.ids,
    "targets": configs.targets,
    "paths": configs.paths,
    "properties": configs.properties,
    "same network in train and inference": configs.same_network,
    "weights": network.weights,
    "input and output": network.input_and_output,
    "tracing": network.tracing,
    "model.ts": network.shipped_torchscript,
    "scripting": network.scripting,
}
