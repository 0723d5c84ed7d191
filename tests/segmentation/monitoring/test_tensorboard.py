import math
import re
import resource
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard import plugin_util
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util import tensor_util

from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.architectures.unet import UNet
from carvana_kedro.segmentation.data.batches import Batches
from carvana_kedro.segmentation.data.geometry import Size
from carvana_kedro.segmentation.data.samples import Samples
from carvana_kedro.segmentation.metrics.mask_scores import dice
from carvana_kedro.segmentation.monitoring import gallery, tensorboard
from carvana_kedro.segmentation.monitoring.event_writer import EventWriter
from carvana_kedro.segmentation.monitoring.tensorboard import (
    TensorBoardCurves,
    TensorBoardGraph,
    TensorBoardHparams,
    TensorBoardImages,
    TensorBoardRecipe,
    TensorBoardScalars,
)
from carvana_kedro.segmentation.training.interrupts import TrainingInterruptedError
from carvana_kedro.segmentation.training.loop import train
from carvana_kedro.stores.images.competition import ImageStore

Setup = Callable[..., tuple]


def _events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def _steps(scalars: list[Any]) -> list[int]:
    return [scalar.step for scalar in scalars]


def test_scalars_equal_the_history(setup: Setup, tmp_path: Path) -> None:
    run, *batches = setup(epochs=2)
    with EventWriter(tmp_path) as writer:
        history = train(run, *batches, [TensorBoardScalars(writer)])
    events = _events(tmp_path)
    # The peak of this run is 0 (unknown), so share_of_peak is NaN and not written.
    names = history[0].keys() - {"epoch", "share_of_peak"}
    assert {"train_loss", "train_dice_coeff", "val_loss", "val_dice_coeff"} < names
    assert set(events.Tags()["scalars"]) == {f"data/{name}" for name in (*names, "memory_gb")}
    for name in names:
        scalars = events.Scalars(f"data/{name}")
        assert _steps(scalars) == [1, 2]
        assert [scalar.value for scalar in scalars] == pytest.approx([record[name] for record in history])
    assert all(0.05 < scalar.value < 1000 for scalar in events.Scalars("data/memory_gb"))


def test_training_and_validation_have_the_same_tags(setup: Setup, tmp_path: Path) -> None:
    run, *batches = setup(epochs=2)
    with EventWriter(tmp_path) as writer:
        history = train(run, *batches, [TensorBoardScalars(writer)])
    for folder, side in (("train", "train"), ("validation", "val")):
        events = _events(tmp_path / folder)
        assert set(events.Tags()["scalars"]) == {"curves/loss", "curves/dice"}
        for tag, name in (("curves/loss", "loss"), ("curves/dice", "dice_coeff")):
            values = [scalar.value for scalar in events.Scalars(tag)]
            assert values == pytest.approx([record[f"{side}_{name}"] for record in history])


def test_nan_values_are_not_written(setup: Setup, tmp_path: Path) -> None:
    run, *_ = setup()
    with EventWriter(tmp_path) as writer:
        for epoch, loss in enumerate((1.0, math.nan, 3.0), start=1):
            values = dict.fromkeys(("train_loss", "train_dice_coeff", "val_dice_coeff"), 0.5)
            run.history.append({"epoch": epoch, "val_loss": loss, **values})
            TensorBoardScalars(writer).on_epoch_end(run)
    assert _steps(_events(tmp_path).Scalars("data/val_loss")) == [1, 3]
    assert _steps(_events(tmp_path / "validation").Scalars("curves/loss")) == [1, 3]


def _callbacks(writer: EventWriter) -> list[Any]:
    kinds = (TensorBoardGraph, TensorBoardScalars, TensorBoardCurves, TensorBoardHparams)
    return [
        TensorBoardImages(writer, 1),
        TensorBoardRecipe(writer, "as before"),
        *(kind(writer) for kind in kinds),
    ]


def _check_shown_once(folder: Path, history: list[dict[str, float]]) -> None:
    """Check what TensorBoard shows of a finished run of up to ten epochs: all of it, and nothing twice."""
    epochs = [int(record["epoch"]) for record in history]
    # The accumulator of `_events` does not purge tensors; the one that TensorBoard itself uses does.
    shown = {
        side: plugin_event_accumulator.EventAccumulator(str(folder / side)).Reload()
        for side in ("", "train", "validation")
    }
    assert _steps(shown[""].Tensors("validation/precision_recall")) == epochs
    for tag in ("recipe/parameters", "recipe/origin"):
        assert _steps(shown[""].Tensors(f"{tag}/text_summary")) == [0]
    for side, prefix in (("train", "train"), ("validation", "val")):
        losses = shown[side].Tensors("curves/loss")
        assert _steps(losses) == epochs
        expected = [record[f"{prefix}_loss"] for record in history]
        assert [_value(loss) for loss in losses] == pytest.approx(expected)
    duration = shown["validation"].Tensors("result/duration_minutes")
    assert _steps(duration) == epochs
    assert _value(duration[-1]) == pytest.approx(sum(record["seconds"] for record in history) / 60)
    assert _rows(folder) == 1
    events = _events(folder)
    losses = events.Scalars("data/val_loss")
    assert [loss.value for loss in losses] == pytest.approx([record["val_loss"] for record in history])
    for scalars in (
        losses,
        *(events.Images(f"validation/{name}") for name in ("image_1", "dice_by_threshold")),
    ):
        assert _steps(scalars) == epochs
    graphs = [path for path in folder.glob("events.*") if b"UNet" in path.read_bytes()]
    assert len(graphs) == 1


def _value(point: Any) -> float:
    return float(tensor_util.make_ndarray(point.tensor_proto))


def _rows(folder: Path) -> int:
    """Return how many rows of the HParams tab a run has."""
    metadata = [_events(folder / side).summary_metadata for side in ("", "train", "validation")]
    starts, ends = (
        sum(f"_hparams_/session_{moment}_info" in part for part in metadata) for moment in ("start", "end")
    )
    assert starts == ends
    return starts


def test_a_new_run_is_shown_once(setup: Setup, tmp_path: Path) -> None:
    run, *batches = setup(epochs=2)
    with EventWriter(tmp_path, purge_step=run.epoch) as writer:
        train(run, *batches, _callbacks(writer))
    _check_shown_once(tmp_path, run.history)


def test_a_resumed_run_replaces_the_events_after_its_checkpoint(setup: Setup, tmp_path: Path) -> None:
    run, *batches = setup(epochs=2)
    with EventWriter(tmp_path, purge_step=run.epoch) as writer:
        train(run, *batches, _callbacks(writer))
    state = run.state()
    first, _ = run.history
    run, *batches = setup(epochs=3, learning_rate=0.001)
    run.restore({**state, "history": [first], "steps": 3})
    with EventWriter(tmp_path, purge_step=run.epoch) as writer:
        train(run, *batches, _callbacks(writer))
    assert len(run.history) == 3
    _check_shown_once(tmp_path, run.history)
    assert len(list(tmp_path.glob("events.*"))) == 2


@pytest.mark.parametrize("steps", [1, 4])  # an epoch has 3 steps
def test_an_interrupted_run_has_no_row_in_the_table_until_it_is_finished(
    setup: Setup, tmp_path: Path, steps: int
) -> None:
    run, *batches = setup(epochs=2)
    run.interrupted = lambda: run.steps == steps
    with (
        EventWriter(tmp_path, purge_step=run.epoch) as writer,
        pytest.raises(TrainingInterruptedError),
    ):
        train(run, *batches, _callbacks(writer))
    assert _rows(tmp_path) == 0
    state = run.state()
    run, *batches = setup(epochs=2)
    run.restore(state)
    with EventWriter(tmp_path, purge_step=run.epoch) as writer:
        train(run, *batches, _callbacks(writer))
    _check_shown_once(tmp_path, run.history)


def test_a_run_that_is_trained_again_leaves_nothing_of_the_first_time(setup: Setup, tmp_path: Path) -> None:
    run, *batches = setup(epochs=3)
    run.about = {"parameters": {"name": "the first time"}}
    with EventWriter(tmp_path, purge_step=1) as writer:
        train(run, *batches, _callbacks(writer))
        writer.run.add_scalar("gone", 1.0, 1)
    (tmp_path / "notes.txt").touch()  # not an event file
    run, *batches = setup(epochs=2, learning_rate=0.001)
    with EventWriter(tmp_path, purge_step=1) as writer:
        train(run, *batches, _callbacks(writer))
    _check_shown_once(tmp_path, run.history)
    assert not any(b"the first time" in path.read_bytes() for path in tmp_path.rglob("events.*"))
    assert "gone" not in _events(tmp_path).Tags()["scalars"]
    assert (tmp_path / "notes.txt").exists()


def test_the_text_lists_the_parameters_and_the_origin_of_the_run(setup: Setup, tmp_path: Path) -> None:
    run, *_ = setup()
    run.about = {"parameters": {"loss": {"bce": 1.0}, "callbacks": ["a|b"], "name": "x"}}
    with EventWriter(tmp_path) as writer:
        TensorBoardRecipe(writer, "Run it **again**.").on_run_begin(run)
    events = _events(tmp_path)
    table, origin = (
        events.Tensors(f"recipe/{name}/text_summary")[0].tensor_proto.string_val[0].decode()
        for name in ("parameters", "origin")
    )
    assert origin == "Run it **again**."
    html = plugin_util.markdown_to_safe_html(table)
    cells = re.findall(r"<t[dh]>(.*?)</t[dh]>", html)
    assert cells == [
        "parameter", "value",
        *(f"<code>{text}</code>" for text in ("loss.bce", "1.0", "callbacks", '["a|b"]', "name", '"x"')),
    ]  # fmt: skip


@pytest.mark.parametrize("shown", [1, 2])  # 1: the last batch of 3 + 1 images has one image
def test_images_show_the_input_the_agreement_and_both_masks(
    setup: Setup, training_images: ImageStore, tmp_path: Path, shown: int
) -> None:
    run, train_batches, _ = setup(epochs=2)
    samples = Samples(training_images, training_images.ids()[12:], run.geometry)
    validation_batches = Batches(samples, 3 if shown == 1 else 4)
    with EventWriter(tmp_path) as writer:
        train(run, train_batches, validation_batches, [TensorBoardImages(writer, count=2)])
    events = _events(tmp_path)
    assert events.Tags()["images"] == [f"validation/image_{n}" for n in range(1, shown + 1)]
    assert _steps(events.Images("validation/image_1")) == [1, 2]
    shown_image = _last_image(events, "validation/image_1")
    image, mask = samples[3 if shown == 1 else 0]
    _, targets, logits = run.last_batch
    assert np.array_equal(targets[0].numpy() > 0.5, mask > 127)
    prediction = logits[0].sigmoid().numpy() > run.threshold
    title = f"epoch 2: Dice {dice(prediction, mask > 127):.3f}"
    assert np.array_equal(shown_image, gallery.snapshot(image, prediction, mask > 127, title))


@pytest.mark.parametrize("epochs", [1, 2, 3, 9, 10, 11, 14, 50, 1000])
def test_a_run_has_pictures_of_at_most_ten_epochs(epochs: int) -> None:
    chosen = [*tensorboard.pictured_epochs(epochs), epochs]
    assert chosen[0] == 1
    assert len(set(chosen)) == min(epochs, 10)
    distances = np.diff(sorted(set(chosen)))
    assert (np.diff(distances[:-1]) >= 0).all()  # the last epoch is close to the one before


def test_the_last_epoch_of_a_run_that_ends_early_has_pictures(setup: Setup, tmp_path: Path) -> None:
    run, *batches = setup(epochs=60, learning_rate=0.0)
    run.patience = 5
    with EventWriter(tmp_path) as writer:
        train(run, *batches, [TensorBoardImages(writer, 1)])
    assert _steps(_events(tmp_path).Images("validation/image_1")) == [1, 2, 3, 5, 6]


def test_curves_cover_all_validation_images(setup: Setup, tmp_path: Path) -> None:
    run, *batches = setup(epochs=1)
    with EventWriter(tmp_path) as writer:
        TensorBoardCurves(writer).on_epoch_end(run)  # writes nothing before the first validation
        train(run, *batches, [TensorBoardCurves(writer)])
    events = _events(tmp_path)
    (event,) = events.Tensors("validation/precision_recall")
    columns = np.array(event.tensor_proto.float_val).reshape(6, 101)
    true_positive, false_positive, true_negative, false_negative, precision, recall = columns
    assert (columns[:4].sum(0) == 4 * 32 * 48).all()  # all pixels of the 4 images
    assert np.array_equal(true_positive[:100], run.curve.true_positive.sum(0))
    assert np.array_equal((true_positive + false_positive)[:100], run.curve.positive.sum(0))
    assert (true_negative[0], false_negative[0], recall[0], true_positive[100]) == (0, 0, 1, 0)
    assert 0 < precision[20] == pytest.approx(true_positive[20] / (true_positive[20] + false_positive[20]))
    assert 0 < recall[20] == pytest.approx(true_positive[20] / (true_positive[20] + false_negative[20]))
    assert _last_image(events, "validation/dice_by_threshold").shape == (640, 960, 3)


def test_the_graph_shows_the_network_and_leaves_it_unchanged(setup: Setup, tmp_path: Path) -> None:
    run, *_ = setup()
    run.network.train()
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    random = torch.get_rng_state()
    with EventWriter(tmp_path) as writer:
        TensorBoardGraph(writer).on_run_begin(run)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in run.network.modules())
    assert all(torch.equal(value, before[name]) for name, value in run.network.state_dict().items())
    nodes = [node.name for node in _events(tmp_path).Graph().node]
    for name, _ in run.network.named_children():
        assert any(f"[{name}]" in node for node in nodes), name


@pytest.mark.parametrize(
    ("name", "size", "small"),
    [
        ("unet_small", (96, 128), (32, 32)),
        ("unet_1024", (171, 128), (107, 64)),
        ("unet_original", (204, 220), (188, 188)),
        ("unet_resnet34", (64, 96), (32, 32)),
    ],
)
def test_the_graph_is_traced_at_a_small_size_and_has_the_same_nodes(
    setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, size: Size, small: Size
) -> None:
    run, *_ = setup()
    run.network = build_network(name, width_multiplier=0.05)
    assert tensorboard._smallest_size(run.network, size) == small
    graphs = []
    for folder, traced in (("small", small), ("full", size)):
        monkeypatch.setattr(tensorboard, "_smallest_size", lambda *_, traced=traced: traced)
        with EventWriter(tmp_path / folder) as writer:
            TensorBoardGraph(writer).on_run_begin(run)
        graphs.append([node.op for node in _events(tmp_path / folder).Graph().node])
    assert graphs[0] == graphs[1]


def test_a_network_from_elsewhere_is_traced_at_the_size_of_the_run() -> None:
    class Own(UNet):
        pass

    assert tensorboard._smallest_size(Own.from_name("unet_small", 0.05), (256, 384)) == (256, 384)


def test_a_compiled_network_has_a_graph(setup: Setup, tmp_path: Path) -> None:
    run, *_ = setup()
    run.network.compile(backend="eager")
    with EventWriter(tmp_path) as writer:
        TensorBoardGraph(writer).on_run_begin(run)
    assert _events(tmp_path).Graph().node
    assert run.network._compiled_call_impl is not None


def test_a_network_that_cannot_be_traced_causes_only_a_warning(
    setup: Setup, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    run, *_ = setup()

    class Untraceable(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> object:
            return object()

    run.network = Untraceable()
    with EventWriter(tmp_path) as writer:
        TensorBoardGraph(writer).on_run_begin(run)
    assert "no graph because the network cannot be traced: " in caplog.text
    assert "No graph saved" not in capsys.readouterr().out  # torch prints this


def test_hparams_show_the_parameters_and_the_best_epoch(setup: Setup, tmp_path: Path) -> None:
    run, *batches = setup(epochs=2)
    run.best_by = "val_loss"
    run.about = {
        "parameters": {
            "optimizer": {"name": "adamw", "rate": {"warm": 0.5}}, "batch_size": 4, "pretrained": True,
            "callbacks": ["a.B"], "nothing": None,
        }
    }  # fmt: skip
    with EventWriter(tmp_path) as writer:
        train(run, *batches, [TensorBoardHparams(writer)])
    events = _events(tmp_path / "validation")
    metadata = events.SummaryMetadata("_hparams_/session_start_info")
    session = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info
    shown = {name: getattr(value, value.WhichOneof("kind")) for name, value in session.hparams.items()}
    assert shown == {
        "optimizer.name": "adamw",
        "optimizer.rate.warm": 0.5,
        "batch_size": 4.0,
        "pretrained": 1.0,
    }
    best = run.history[run.best_epoch - 1]
    metrics = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    assert metrics == pytest.approx(
        {
            "result/dice": best["val_dice_coeff"],
            "result/duration_minutes": sum(record["seconds"] for record in run.history) / 60,
            "result/epochs": 2,
            "result/loss": best["val_loss"],
            "result/model_epoch": best["epoch"],
        }
    )
    # No list of columns is written; TensorBoard collects the columns itself.
    assert {tag for tag in events.summary_metadata if tag.startswith("_hparams_")} == {
        "_hparams_/session_start_info",
        "_hparams_/session_end_info",
    }


def _last_image(events: EventAccumulator, tag: str) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(events.Images(tag)[-1].encoded_image_string)))


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("limit", [0, 10, 1000])
def test_training_goes_on_when_the_disk_is_full(
    setup: Setup,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
) -> None:
    run, *batches = setup(epochs=2)
    # The limit is also one of the file that captures the log.
    monkeypatch.setattr("logging.raiseExceptions", False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # a real fault: no file may be longer
    try:
        with EventWriter(tmp_path / "events") as writer:
            kinds = (TensorBoardScalars, TensorBoardCurves, TensorBoardHparams)
            history = train(run, *batches, [TensorBoardImages(writer, 1), *(kind(writer) for kind in kinds)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [record["epoch"] for record in history] == [1, 2]
    (warning,) = [text for name, _, text in caplog.record_tuples if name.endswith("monitoring.event_writer")]
    assert f"its files in {tmp_path / 'events'} cannot be written. File too large." in warning
    assert "Training continues." in warning
    assert "Traceback" not in "".join(capfd.readouterr())


def test_training_goes_on_when_the_folder_cannot_be_created(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with EventWriter(tmp_path / "file" / "events") as writer:
        writer.run.add_scalar("a", 1.0, 1)
        writer.flush()
    assert len(caplog.records) == 1
    assert "A file is where a folder should be." in caplog.text


def test_an_error_that_is_no_fault_of_the_machine_is_raised(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as writer, pytest.raises(TypeError):
        writer.run.add_scalar("a", 1.0, no_such_argument=True)
