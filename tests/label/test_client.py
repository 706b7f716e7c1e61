"""A real server, started by the project's command, and the client that 3D Slicer uses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_ext.data import datalist
from tests.bundles.running import BUNDLES, ROOT, data_of
from tests.label.serving import short_copy

pytest.importorskip("monailabel", reason="MONAI Label is not installed (make test-label)")

NAME = "hippocampus_mri_segmentation"
(BUNDLE,) = [path for path in BUNDLES if path.name == NAME]


@pytest.fixture(scope="module")
def items(phantom_of: Callable[[Path], Path]) -> list[dict[str, Any]]:
    return datalist(data_of(BUNDLE), phantom_of(BUNDLE), "all")[:3]


@pytest.fixture(scope="module")
def server(items: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of one bundle with three volumes, a, b and c."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "studies").mkdir()
    for letter, item in zip("abc", items):
        (folder / "studies" / f"{letter}.nii.gz").write_bytes(Path(item["image"]).read_bytes())
    bundle = short_copy(BUNDLE, folder / "bundle")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [folder / "app", "--bundles", bundle, "--studies", folder / "studies", "--start", "--port", port]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"OMP_NUM_THREADS": "1", "MONAI_LABEL_SESSION_PATH": str(folder / "sessions")}
    log = folder / "log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "monai_ext", "label", *map(str, words)]
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 180
        while not _listens(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does: to the command and the server alike
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_from_the_first_answer_to_the_weights_it_learnt(
    server: str, items: list[dict[str, Any]], tmp_path: Path
) -> None:
    from monailabel.client import MONAILabelClient

    # in the server's own folder for temporary files, the server would remove what the client saves
    client = MONAILabelClient(server_url=server, tmpdir=str(tmp_path))
    info = client.info()
    assert info["models"][NAME]["labels"] == {"anterior": 1, "posterior": 2} and NAME in info["trainers"]

    sample = client.next_sample("first", {})
    asked = {"device": "cpu", "result_extension": ".nii.gz", "result_dtype": "uint8"}  # as 3D Slicer asks
    answer, _ = client.infer(NAME, "c", asked)
    before = nib.load(answer)
    scan = nib.load(items[2]["image"])
    assert sample["id"] in "abc" and before.shape == scan.shape and before.get_data_dtype() == np.uint8
    np.testing.assert_allclose(before.affine, scan.affine, atol=1e-4)
    assert set(np.unique(before.get_fdata())) == {0, 1, 2}

    for letter, item in zip("ab", items):
        client.save_label(letter, item["label"], params={})
    client.train_start(NAME, {"max_epochs": 2, "device": "cpu", "val_split": 0.5})
    deadline = time.monotonic() + 240
    while (status := client.train_status())["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < deadline, status
        time.sleep(0.5)
    assert status["status"] == "DONE", "\n".join(status["details"])

    answer, _ = client.infer(NAME, "c", asked)
    after = nib.load(answer)
    assert after.shape == scan.shape and not np.array_equal(after.get_fdata(), before.get_fdata())
