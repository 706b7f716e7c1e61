"""What is asked of every bundle: the model zoo's standard, and the house's rules on top."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, onnx_export

from monai_ext.bundle.carry_configs import walk
from monai_ext.bundle.check import check_bundle
from monai_ext.bundle.checks import CHECKS
from monai_ext.data.monai_label import MonaiLabelAnswerd
from tests.bundles.running import BUNDLES, ROOT, classifies, input_size, workflow

FILES = (
    "LICENSE",
    *(f"configs/{name}.json" for name in ("metadata", "train", "evaluate", "inference", "multi_gpu_train", "demo")),
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
    "models/model.pt",
)
SECTIONS = ("preprocess", "limit", "reference")  # beside those that every shared bundle has
# Needs a network; asked below by MONAI's own command; does not work with these networks.
ELSEWHERE = ("metadata against its schema", "tracing", "scripting")
WORKFLOWS = {"train": ["train.json"], "infer": ["inference.json"], "eval": ["train.json", "evaluate.json"]}

ASKED = tuple(name for name in CHECKS if name not in ELSEWHERE)

pytestmark = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)


def config(bundle: Path, *names: str) -> dict[str, Any]:
    return ConfigParser.load_config_files([str(bundle / "configs" / name) for name in names])


def configs(bundle: Path) -> list[Path]:
    return sorted(path for path in (bundle / "configs").glob("*.json") if path.name != "metadata.json")


def channels(definition: dict[str, Any], name: str) -> int:
    """`in_channels`, `out_channels` or `num_classes` of a network, which may stand inside another one."""
    (found,) = {value for key, value in walk(definition) if key == name}
    return found


def network(bundle: Path) -> torch.nn.Module:
    net = ConfigParser({"network_def": config(bundle, "inference.json")["network_def"]}).get_parsed_content(
        "network_def"
    )
    net.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True), strict=True)
    return net.eval()


@pytest.mark.parametrize("file", FILES)
def test_files(bundle: Path, file: str) -> None:
    path = bundle / file
    assert path.is_file(), f"{bundle.name} lacks {file}"
    assert path.stat().st_size > 0


@pytest.mark.parametrize("check", ASKED)
def test_what_the_model_zoo_asks(bundle: Path, check: str) -> None:
    """The same questions as `bundle check`."""
    report = check_bundle(bundle, {check: CHECKS[check]})
    assert report.ok, report.table()


def test_metadata(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["required_packages_version"]
    tensors = metadata["network_data_format"]
    assert set(tensors["inputs"]) == {"image"} and "pred" in tensors["outputs"]
    for tensor in [*tensors["inputs"].values(), *tensors["outputs"].values()]:
        assert len(tensor["channel_def"]) == tensor["num_channels"]


def test_metadata_fits_the_configs(bundle: Path) -> None:
    tensors = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    definition = config(bundle, "train.json")["network_def"]
    assert tensors["inputs"]["image"]["num_channels"] == channels(definition, "in_channels")
    outputs = channels(definition, "num_classes" if classifies(bundle) else "out_channels")
    assert tensors["outputs"]["pred"]["num_channels"] == outputs
    assert tensors["inputs"]["image"]["spatial_shape"] == input_size(config(bundle, "train.json"))


def test_every_target_is_a_full_name(bundle: Path) -> None:
    for path in configs(bundle):
        targets = [value for key, value in walk(json.loads(path.read_text())) if key == "_target_"]
        assert targets or path.stem not in ("train", "evaluate", "inference"), path.name
        assert all("." in target for target in targets), f"{path.name}: a bare name"


def test_ids(bundle: Path) -> None:
    for files in (["train.json"], ["train.json", "multi_gpu_train.json"], ["train.json", "demo.json"]):
        assert {"initialize", "run", "training", "finalize"} <= set(config(bundle, *files)), files
    for files in (["inference.json"], ["train.json", "evaluate.json"]):
        assert {"initialize", "run", "finalize"} <= set(config(bundle, *files)), files


def test_training_and_inference_agree(bundle: Path) -> None:
    train, inference = config(bundle, "train.json"), config(bundle, "inference.json")
    for name in ("network_def", "patch_size", "image_size", "margin", "class_names", "model_path"):
        assert train.get(name) == inference.get(name), name


def test_paths_stay_inside(bundle: Path) -> None:
    for path in configs(bundle):
        for key, value in walk(json.loads(path.read_text())):
            if not isinstance(value, str) or key == "_desc_":
                continue
            assert not re.match(r"/|~|[A-Za-z]:\\|\.\.", value), f"{path.name}: {key} is {value}"
            assert "../" not in value and "%" not in value[:1], f"{path.name}: {key} is {value}"
            for start in re.findall(r"(\S+) \+ '/", value):  # '/...' is joined to a folder of the bundle
                assert start.lstrip("$") in ("@bundle_root", "@output_dir"), f"{path.name}: {key} is {value}"
    for files in WORKFLOWS.values():
        parser = ConfigParser(config(bundle, *files))
        parser["bundle_root"] = str(bundle)
        for name in ("output_dir", "model_path"):
            assert Path(parser.get_parsed_content(name)).is_relative_to(bundle), name


@pytest.mark.parametrize("kind", WORKFLOWS)
def test_properties(bundle: Path, kind: str, phantom_of: Callable[[Path], Path], tmp_path: Path) -> None:
    paths = {"dataset_dir": str(phantom_of(bundle)), "output_dir": str(tmp_path)}
    flow = workflow(bundle, WORKFLOWS[kind], kind, device="$torch.device('cpu')", **paths)
    flow.initialize()
    assert flow.check_properties() == []


def test_a_server_can_take_parts_of_the_configs(bundle: Path) -> None:
    """MONAI Label builds these parts of the inference without a folder of images, and scores with dropout."""
    settings = {**config(bundle, "inference.json"), "bundle_root": str(bundle), "device": "cpu"}
    settings["network_def"] = {**settings["network_def"], "dropout": 0.2}
    parser = ConfigParser(settings)
    assert parser.get_parsed_content("network_def").training
    for name in ("preprocessing", "inferer", "postprocessing"):
        built = parser.get_parsed_content(name)
    assert isinstance(built.transforms[-1], MonaiLabelAnswerd)
    handlers = config(bundle, "train.json")["train"]["handlers"]
    assert all(isinstance(handler, dict) for handler in handlers), "MONAI Label looks into each"
    assert any(handler["_target_"].endswith(".LastModelSaver") for handler in handlers)


def test_logging(bundle: Path) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        ConfigWorkflow(str(bundle / "configs" / "train.json"), workflow_type="train")  # applies logging.conf
        assert root.handlers and root.level == logging.INFO
    finally:
        root.handlers[:], root.level = before


def test_weights(bundle: Path) -> None:
    path = bundle / "models" / "model.pt"
    assert path.stat().st_size < 10_000_000
    assert all(type(value) is torch.Tensor for value in torch.load(path, weights_only=True).values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_export_to_onnx(bundle: Path, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    net = network(bundle)
    settings = config(bundle, "inference.json")
    image = torch.randn(1, channels(settings["network_def"], "in_channels"), *input_size(settings))
    onnx_export(filepath=str(tmp_path / "model.onnx"), **export_of(bundle))
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    found = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), net(image), atol=1e-4, rtol=1e-4)


def export_of(bundle: Path) -> dict[str, str]:
    """What both commands are told."""
    return {
        "net_id": "network_def",
        "ckpt_file": str(bundle / "models" / "model.pt"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "config_file": str(bundle / "configs" / "inference.json"),
    }


def test_readme(bundle: Path) -> None:
    text = (bundle / "docs" / "README.md").read_text()
    titles = [line.lstrip("# ").lower() for line in text.splitlines() if line.startswith("#")]
    for section in SECTIONS:
        assert any(re.search(section, title) for title in titles), f"docs/README.md has no section on {section!r}"
    blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    assert any("monai.bundle run training" in block for block in blocks), "docs/README.md has no command that trains"
    variables = {name: value for block in blocks for name, value in re.findall(r"^(\w+)=(\S+)$", block, re.MULTILINE)}
    for block in blocks:
        for name, value in variables.items():
            block = block.replace(f"${name}/", f"{value}/")
        for name in re.findall(r"(?<![\w./-])[\w.-]+(?:/[\w.-]+)*\.(?:json|conf|md|txt|py)\b", block):
            assert any((root / name).is_file() for root in (ROOT, bundle, bundle.parent)), (
                f"docs/README.md names {name}"
            )
        for name in re.findall(r"(?:bundles/[\w./-]+/)?models/[\w.-]+\.pt\b", block):
            assert any((root / name).is_file() for root in (ROOT, bundle)), f"docs/README.md names {name}"
