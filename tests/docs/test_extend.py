"""`docs/how-to/extend.md`: its files and edits are written, its commands run, and its messages compared."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog
from PIL import Image

from carvana_kedro.commands.params import parse_params
from carvana_kedro.errors import UserError
from carvana_kedro.parameters import check_configuration
from carvana_kedro.segmentation.data.geometry import Geometry
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction import onnx
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.segmentation.prediction.segmenter import Segmenter
from carvana_kedro.segmentation.training.build import check_recipe
from carvana_kedro.segmentation.training.losses import build_loss
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.settings import CONFIG_LOADER_ARGS
from carvana_kedro.stores.checkpoints import load_checkpoint
from my_extensions import Branching

PROJECT = Path(__file__).parents[2]
GUIDE = (PROJECT / "docs/how-to/extend.md").read_text()
OWN_CODE = ("A network", "A loss", "An optimizer", "A callback", "Use them: a recipe")
BLOCK = re.compile(r"(?:<!-- ([a-z]+)(?:: (\S+))? -->\n)?```\w+\n(.*?)```", re.DOTALL)


class Block(NamedTuple):
    """A fenced block, and the comment before it: `<!-- kind: about -->`."""

    kind: str
    about: str
    text: str


def _section(heading: str) -> str:
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", GUIDE, re.DOTALL | re.MULTILINE)
    return section


def _blocks(heading: str) -> list[Block]:
    return [Block(*match.groups(default="")) for match in BLOCK.finditer(_section(heading))]


def _edit(file: Path, diff: str) -> None:
    """Replace the lines of a diff that begin with a blank or `-` by those that begin with a blank or `+`."""
    lines = [(line[:1] or " ", line[1:]) for line in diff.splitlines()]
    before, after = ("\n".join(text for mark, text in lines if mark in marks) for marks in (" -", " +"))
    content = file.read_text()
    assert content.count(before) == 1, f"{before!r} is not in {file.name} exactly once"
    file.write_text(content.replace(before, after))


def _run(command: str, project: Path) -> None:
    arguments = shlex.split(command)
    assert arguments[0] in ("kedro", "pytest")
    paths = os.pathsep.join(str(project / name) for name in ("src", "tests"))
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=project,
        env={
            **os.environ,
            "PYTHONPATH": paths,
            "DO_NOT_TRACK": "1",
            "COLUMNS": "200",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _follow(project: Path, *headings: str, extra: str = "") -> None:
    """Write the files and edits of some sections, and run their commands, in the order of the page."""
    for kind, about, text in (block for heading in headings for block in _blocks(heading)):
        if kind == "file":
            (project / about).parent.mkdir(exist_ok=True)
            (project / about).write_text(text)
        elif kind == "edit":
            _edit(project / about, text)
        elif kind == "run" and about == extra:
            _run(text, project)


def _copy_project(folder: Path) -> Path:
    project = folder / "project"
    ignored = shutil.ignore_patterns("__pycache__", "local", "*.egg-info")
    for name in ("conf", "src", "tests"):
        shutil.copytree(PROJECT / name, project / name, ignore=ignored)
    (project / "conf/local").mkdir()
    shutil.copy(PROJECT / "pyproject.toml", project)
    return project


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after the sections about code of one's own."""
    project = _copy_project(tmp_path_factory.mktemp("extended"))
    _follow(project, *OWN_CODE)
    return project


@pytest.fixture(scope="module")
def imports(extended: Path) -> Iterator[None]:
    """The modules of the guide can be imported, and are forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(extended / "src")
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def test_a_network_a_loss_an_optimizer_and_a_callback_of_your_own(extended: Path, imports: None) -> None:
    data = extended / "data/test"
    model = TrainedModel.from_dict(load_checkpoint(data / "06_models/mine/model.pt"))
    architecture = {"type": "my_package.networks.MyNet", "channels": 24}
    assert model.members[0].architecture == architecture
    (network,) = model.build_networks(["my_package.networks.MyNet"])
    assert network.get_parameter("head.weight").shape[1] == 48
    state = load_checkpoint(max((data / "06_models/mine/checkpoints").glob("*/last-*.pt")))
    assert state["optimizer"]["param_groups"][0]["betas"] == [0.9, 0.95]
    assert set(state["optimizer"]["state"][0]) == {"momentum"}
    assert state["about"]["parameters"]["loss"] == {"type": "my_package.losses.focal_loss", "gamma": 1.5}
    history = pd.read_csv(data / "06_models/mine/training_history.csv")
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    status = json.loads((extended / "status.json").read_text())
    assert status == {"epoch": 3, "dice": pytest.approx(history["val_dice_coeff"].iloc[-1])}
    submission = pd.read_csv(data / "07_model_output/sample/mine/submit.csv.gz")
    assert len(submission) == 4
    assert submission["rle_mask"].notna().all()
    session = onnxruntime.InferenceSession(data / "06_models/mine/export/model.onnx")
    images = np.random.default_rng(0).integers(256, size=(2, 64, 96, 3), dtype=np.uint8)
    (logits,) = session.run(["logits"], {"images": images})
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-3)


def test_the_loss_of_the_guide_is_the_mean_of_the_losses_of_equal_parts(imports: None) -> None:
    loss = build_loss({"type": "my_package.losses.focal_loss", "gamma": 1.5})
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 8, 8), torch.rand(4, 8, 8)
    parts = [loss(*part) for part in zip(logits.chunk(2), targets.chunk(2), strict=True)]
    torch.testing.assert_close(sum(parts) / 2, loss(logits, targets))


def test_a_source_is_one_entry_of_the_catalog(extended: Path, unpacked: Path) -> None:
    for kind, pattern in (("images", "train-*/*.jpg"), ("masks", "train_masks-*/*.gif")):
        (extended / "toys" / kind).mkdir(parents=True)
        for file in unpacked.glob(pattern):
            shutil.copy(file, extended / "toys" / kind / file.name.replace("_mask.", "."))
    _follow(extended, "A source")
    output = extended / "data/test/07_model_output/toys/sample"
    for kind in ("masks", "cutouts", "overlays"):
        assert len(list((output / kind).iterdir())) == 16
    card = (extended / "data/test/08_reporting/toys/sample/model_card.md").read_text()
    assert "The model was trained on toy cars and has not seen a real one." in card
    index = pd.read_csv(extended / "data/test/05_model_input/toys/train_index.csv")
    assert index["car"].nunique() == 3


def test_a_parameter_and_a_report_picture(tmp_path: Path) -> None:
    project = _copy_project(tmp_path)
    _follow(project, "A parameter", "A report picture")
    checkpoints = (project / "data/test/06_models/sample/checkpoints").glob("*/last-*.pt")
    losses = {
        run["about"]["parameters"]["label_smoothing"]: run["history"][0]["train_loss"]
        for run in map(load_checkpoint, checkpoints)
    }
    assert losses.keys() == {0.0, 0.2}
    assert losses[0.0] != losses[0.2]
    with Image.open(project / "data/test/08_reporting/sample/sample/training_images.png") as picture:
        assert picture.size == (4 * 416, 2 * (28 + 267 + 16))


@pytest.mark.smp
@pytest.mark.skipif(
    find_spec("segmentation_models_pytorch") is None,
    reason="needs segmentation-models-pytorch: run `make smp`",
)
def test_a_network_of_segmentation_models_pytorch(tmp_path: Path) -> None:
    project = _copy_project(tmp_path)
    _follow(project, "A network of segmentation-models-pytorch", extra="smp")
    content = load_checkpoint(project / "data/test/06_models/sample/model.pt")
    assert content["architecture"] == "smp:Unet/resnet34"
    assert (project / "data/test/07_model_output/sample/sample/submit.csv.gz").is_file()


def _check(project: Path, params: str, env: str = "test") -> None:
    """Check the configuration, the source and the recipe as a run does.

    Args:
        project: Folder of the project.
        params: As on the command line: `KEY=VALUE,KEY=VALUE`.
        env: The environment.
    """
    values = parse_params(params)
    loader = OmegaConfigLoader(str(project / "conf"), env=env, runtime_params=values, **CONFIG_LOADER_ARGS)
    checked = check_configuration(loader["parameters"], loader["globals"], values)
    DataCatalog.from_config(loader["catalog"], credentials=loader["credentials"]).get("source")
    check_recipe(checked.model_training.to_recipe())


@pytest.mark.parametrize(
    "command", [block.text for name in OWN_CODE for block in _blocks(name) if block.text.startswith("kedro")]
)
def test_the_parameters_of_every_command_pass_the_checks(command: str, extended: Path, imports: None) -> None:
    arguments = shlex.split(command)
    env = arguments[arguments.index("--env") + 1] if "--env" in arguments else "local"
    _check(extended, arguments[arguments.index("--params") + 1], env)


def _network(architecture: str, *more: str) -> str:
    """Return the parameters of a network that is not this package's, in the environment `test`."""
    width = () if any(value.startswith("width_multiplier") for value in more) else ("width_multiplier=1",)
    values = (*width, f"architecture={architecture}", *more)
    return ",".join(f"model_training.{value}" for value in values)


(TOYS,) = (block for block in _blocks("A source") if block.kind == "file")
MYNET = "my_package.networks.MyNet"
LOSS = "model_training.loss"
OPTIMIZER = "model_training.optimizer"
LION = f"{OPTIMIZER}.name=my_package.optimizers.Lion"
CALLBACKS = "model_training.callbacks"
MISTAKES: dict[str, str | Callable[[Path], object]] = {
    "`my_packge.networks.MyNet`": _network("my_packge.networks.MyNet"),
    "`my_package.networks.MyNett`": _network("my_package.networks.MyNett"),
    "an argument that the network does not take": _network(
        "{type: my_package.networks.MyNet}", "architecture.depth=3"
    ),
    "a network with another base": _network("torch.nn.ReLU"),
    "`width_multiplier` is not 1": _network(MYNET, "width_multiplier=0.5"),
    "images smaller than `stride`": _network(MYNET, "input_size.height=3"),
    "`forward` returns two logits per pixel": _network("my_extensions.TwoLogits"),
    "`forward` raises an error": _network("my_extensions.FullyConnected"),
    "BatchNorm has one value per channel": _network("my_extensions.GlobalNorm", "batch_size=1"),
    "`pretrained: true` without pretrained weights": _network(MYNET, "pretrained=true"),
    "control flow that depends on values, in `export`": lambda _: onnx.traced(
        Segmenter(Branching(), Geometry((32, 48), (32, 48)))
    ),
    "a model file with a path that the parameters do not name": lambda project: Predictor.from_checkpoint(
        project / "data/test/06_models/mine/model.pt"
    ),
    "an argument that the loss does not take": f"{LOSS}.type=my_package.losses.focal_loss,{LOSS}.beta=1",
    "one value per image": f"{LOSS}.type=my_extensions.loss_by_image",
    "a loss that raises an error": f"{LOSS}.type=torch.nn.functional.nll_loss",
    "arguments without `type`": f"{LOSS}.gamma=2",
    "`name: lion`": f"{OPTIMIZER}.name=lion",
    "an argument that the optimizer does not take": f"{LION},{OPTIMIZER}.momentum=0.9",
    "an optimizer with another base": f"{OPTIMIZER}.name=my_extensions.NoOptimizer,{OPTIMIZER}.weight_decay=0",
    "`learning_rate: 0`": f"{LION},{OPTIMIZER}.learning_rate=0",
    "an argument of the callback is missing": f"{CALLBACKS}=[my_package.callbacks.Status]",
    "a callback with another base": f"{CALLBACKS}=[my_package.networks.MyNet]",
    "`source=toy`": "source=toy",
    "no `limits`": lambda project: _check_source(project, "limits: [", "limit: ["),
    "`limits` is a sentence, not a list": lambda project: _check_source(
        project, "[The model was trained on toy cars and has not seen a real one.]", "The cars are toys."
    ),
    "only step 1": lambda _: Recipe.from_dict({"label_smoothing": 0.2}),
    "only step 2": "model_training.label_smoothing=0.2",
}


def _check_source(project: Path, before: str, after: str) -> None:
    """Check the source of the guide with a mistake in its entry."""
    assert before in TOYS.text
    (project / TOYS.about).write_text(TOYS.text.replace(before, after))
    _check(project, "source=toys")


def _messages() -> dict[str, str]:
    """Return the messages of the tables after `<!-- checks -->`, by mistake."""
    tables = re.findall(r"<!-- checks -->\n(?:\|.*\n){2}((?:\|.*\n)+)", GUIDE)
    return dict(re.findall(r"^\| (.+) \| `(.+)` \|$", "".join(tables), re.MULTILINE))


def test_every_mistake_of_the_guide_is_tried() -> None:
    assert list(_messages()) == list(MISTAKES)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_checks_say_what_the_guide_says(mistake: str, extended: Path, imports: None) -> None:
    cause = MISTAKES[mistake]
    (extended / TOYS.about).write_text(TOYS.text)
    pattern = ".*".join(re.escape(part) for part in _messages()[mistake].split("…"))
    with pytest.raises(Exception) as raised:
        _check(extended, cause) if isinstance(cause, str) else cause(extended)
    error: BaseException | None = raised.value
    while not isinstance(error, UserError):  # OmegaConf and Kedro wrap it in errors of their own
        assert error
        error = error.__cause__ or error.__context__
    assert re.search(pattern, str(error), re.DOTALL)
