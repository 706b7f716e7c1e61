"""Bundles in a MONAI Label server: setting up its app folder, and its command."""
