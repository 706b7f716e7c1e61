"""The app folder of a MONAI Label server, and the command that runs it."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from monai_ext.data.staging import locked, staged
from monai_ext.label.bundles import Bundle, copy_bundle

__all__ = ["app_of_monailabel", "check_port", "check_studies", "run_server", "server_command", "set_up_app"]

APP = "monaibundle"
GUIDE = "docs/monai_label.md"
# what stands in the app's main.py, and not all of it in that of another app of MONAI Label (radiology, vista2d ...)
_MARKS = ("self.models = get_bundle_models(", "BundleInferTask(b, self.conf)")
_LISTED = (".nii.gz", ".nii", ".nrrd", ".jpg", ".png", ".tif")  # what MONAI Label's datastore lists by default


def app_of_monailabel() -> Path:
    """The folder of the app ``monaibundle`` that comes with MONAI Label, which is not imported for it.

    Raises:
        ModuleNotFoundError: MONAI Label is not installed.
        FileNotFoundError: it is, without its apps.
    """
    spec = importlib.util.find_spec("monailabel")
    if spec is None or spec.origin is None:
        raise LabelMissingError(f"MONAI Label is not installed in this environment: {GUIDE} says how to.")
    candidates = [Path(spec.origin).parents[1] / "sample-apps" / APP / "main.py"]  # a checkout of its sources
    try:
        files = metadata.files("monailabel") or []
    except metadata.PackageNotFoundError:
        files = []
    candidates += [Path(str(file.locate())) for file in files if file.parts[-3:] == ("sample-apps", APP, "main.py")]
    for path in candidates:
        if path.is_file():
            return path.resolve().parent
    raise FileNotFoundError(f"MONAI Label is installed without its app {APP}: install it again as {GUIDE} says.")


class LabelMissingError(ModuleNotFoundError):
    """MONAI Label is not installed."""


def check_studies(studies: str) -> tuple[str, str | None]:
    """The folder of images as the server is to be told, and a remark where it is unlikely to be the right one.

    The address of a DICOMweb server is passed on as it is.

    Raises:
        FileNotFoundError: no such folder.
    """
    if studies.startswith(("http://", "https://")):
        return studies, None
    folder = Path(studies).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} for --studies: give the folder with the images to label.")
    if any(path.name.endswith(_LISTED) for path in folder.iterdir()):
        return str(folder.resolve()), None
    return str(folder.resolve()), f"{folder} holds no image that MONAI Label lists ({', '.join(_LISTED)})."


def set_up_app(app_dir: str | Path, bundles: Sequence[Bundle], source: Path, replace: bool = False) -> list[str]:
    """Make the app folder, or add bundles to one that is there, and say what was done.

    Args:
        app_dir: the app's folder; a new or empty one, or one that was set up before.
        bundles: those to copy into it.
        source: the app ``monaibundle``, as :func:`app_of_monailabel` finds it.
        replace: see :func:`monai_ext.label.bundles.copy_bundle`.

    Raises:
        FileExistsError: a file, or a folder that holds something else.
    """
    target = Path(app_dir).expanduser().resolve()
    _check_app(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent):
        if not (target / "main.py").is_file():
            with staged(target) as fresh:
                ignored = shutil.ignore_patterns("model", "logs", "__pycache__")
                shutil.copytree(source, fresh, ignore=ignored, dirs_exist_ok=True)
        models = target / "model"
        models.mkdir(exist_ok=True)
        return [copy_bundle(bundle, models, replace) for bundle in bundles]


def _check_app(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file: give the app a folder of its own.")
    main = target / "main.py"
    if main.is_file():
        text = main.read_text(encoding="utf-8", errors="replace")
        if not all(mark in text for mark in _MARKS):
            raise FileExistsError(f"{target} is another app than MONAI Label's {APP}: give another folder.")
    elif target.is_dir() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty and no app of MONAI Label: give a new folder.")


def server_command(
    app_dir: str | Path,
    bundles: Sequence[Bundle],
    studies: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    scoring: Sequence[str] = (),
) -> list[str]:
    """The words of the command that runs the server, which asks no network for anything.

    Args:
        app_dir: the app's folder.
        bundles: those to serve.
        studies: folder or address of the images.
        host: the address it listens on.
        port: its port.
        scoring: names of bundles that score unlabelled images by the uncertainty of their predictions.
    """
    names = [bundle.name for bundle in bundles]
    unknown = [name for name in scoring if name not in names]
    if unknown:
        raise ValueError(f"--scoring names {unknown[0]!r}, which is not among --bundles: {', '.join(names)}.")
    conf = {"models": ",".join(names), "zoo_source": "ngc", "sam2": "false"}
    if scoring:
        conf["epistemic_model"] = ",".join(scoring)
    app = str(Path(app_dir).expanduser().resolve())
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", app, "--studies", studies]
    command += ["--host", host, "--port", str(port)]
    return command + [word for key, value in conf.items() for word in ("--conf", key, value)]


def check_port(host: str, port: int) -> None:
    """Look whether a server could listen there.

    Raises:
        ValueError: no port, no address of this machine, or another program listens there.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise ValueError(f"--port must be a whole number from 1 to 65535, got {port!r}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: not one that just ended
            probe.bind(address)
    except socket.gaierror as error:
        raise ValueError(f"--host {host!r} is no address: 127.0.0.1 serves this machine alone, 0.0.0.0 all.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"port {port} of {host} is in use: give another --port, or end what listens there."
            ) from error
        raise ValueError(
            f"cannot listen on {host}:{port} ({error.strerror}): give another --host or --port."
        ) from error


def run_server(command: Sequence[str]) -> int:
    """Run the server until it ends; it takes the place of this process, so that every signal is the server's."""
    sys.stdout.flush()
    if os.name == "posix":
        os.execv(command[0], command)
    return subprocess.call(command)
