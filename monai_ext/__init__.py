"""Long-context transformers for medical images, delivered as MONAI bundles."""

__version__ = "0.1.0"
