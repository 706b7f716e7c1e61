"""Manifests, data lists, download, check and phantoms."""

from monai_ext.data.datalists import case_counts, datalist
from monai_ext.data.manifest import Manifest, list_manifests, load_manifest

__all__ = ["Manifest", "case_counts", "datalist", "list_manifests", "load_manifest"]
