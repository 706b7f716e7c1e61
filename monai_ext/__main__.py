"""Entry point of `python -m monai_ext`."""

from __future__ import annotations

import sys

from monai_ext.cli import main

# group -> the module that holds its COMMANDS, or its one COMMAND
GROUPS = {
    "data": "monai_ext.data.commands",
    "bench": "monai_ext.bench.commands",
    "study": "monai_ext.study.commands",
    "bundle": "monai_ext.bundle.commands",
    "label": "monai_ext.label.commands",
}

if __name__ == "__main__":
    sys.exit(main(GROUPS, sys.argv[1:]))
