"""Ignite handlers for MONAI's engines: resuming, best weights, logs, per-case results and pictures."""
