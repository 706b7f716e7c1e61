"""A program: runs workflows of bundles in one process, with the package made impossible to import if told so.

`python run_jobs.py JOBS.json`: {"without_package": true, "jobs": [{"bundle", "files", "kind", "overrides"}, ...]}
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


class Blocker:
    """Stands first among the finders: the package is not there."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] == "monai_ext":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(path: Path) -> None:
    task = json.loads(path.read_text(encoding="utf-8"))
    if task["without_package"]:
        sys.meta_path.insert(0, Blocker())
    import torch
    from monai.bundle import ConfigWorkflow

    torch.set_num_threads(1)
    for job in task["jobs"]:
        files = [str(Path(job["bundle"]) / "configs" / file) for file in job["files"]]
        flow = ConfigWorkflow(
            files, workflow_type=job["kind"], logging_file=False, bundle_root=job["bundle"], **job["overrides"]
        )
        flow.initialize()
        wrong = flow.check_properties()
        if wrong:
            raise SystemExit(f"{job['bundle']}: {wrong}")
        flow.run()
        flow.finalize()
    loaded = sorted(name for name in sys.modules if name.split(".")[0] == "monai_ext")
    if task["without_package"] and loaded:
        raise SystemExit(f"imported all the same: {loaded}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
