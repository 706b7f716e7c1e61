"""Bundles in a MONAI Label server: set up the app folder, print or run the server's command."""

from __future__ import annotations

import shlex
from pathlib import Path

from fire.decorators import SetParseFn


@SetParseFn(str, "app_dir", "bundles", "studies", "host", "scoring")
def label(
    app_dir: str,
    bundles: str,
    studies: str,
    start: bool = False,
    host: str = "127.0.0.1",
    port: int = 8000,
    scoring: str | None = None,
    replace: bool = False,
) -> int:
    """Set up a folder for a MONAI Label server with these bundles, and print the server's command.

    The bundles are copied: a training in the server overwrites the weights of the copy and of nothing else.

    Args:
        app_dir: the server's folder; new, or one that this command made.
        bundles: names or paths of bundles, with commas between.
        studies: the folder with the images to label, to which MONAI Label adds its own files; or a DICOMweb address.
        start: run the server, until Ctrl-C.
        host: the address to listen on; 127.0.0.1 is for this machine alone, 0.0.0.0 for all that reach it.
        port: the port to listen on.
        scoring: names of bundles, with commas between, that score unlabelled images by their uncertainty.
        replace: take bundles anew that the folder has already; the former ones are kept beside them.
    """
    from monai_ext.label import app
    from monai_ext.label.bundles import find_bundles

    chosen = find_bundles(bundles, [Path(app_dir).expanduser() / "model"])
    folder, remark = app.check_studies(studies)
    scored = [word.strip() for word in (scoring or "").split(",") if word.strip()]
    command = app.server_command(app_dir, chosen, folder, host, port, scored)
    if start:
        app.check_port(host, port)
    for line in app.set_up_app(app_dir, chosen, app.app_of_monailabel(), replace):
        print(line)
    if remark is not None:
        print(remark)
    print(shlex.join(command), flush=True)
    return app.run_server(command) if start else 0


COMMAND = label
