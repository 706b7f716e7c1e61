"""What bundles and their commands share."""
