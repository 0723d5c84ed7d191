import errno
import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from carvana_kedro import provenance
from carvana_kedro.datasets import ModelDataset, TableDataset
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import ModelTraining
from carvana_kedro.pipelines.model_training.nodes import describe_run, evaluate_model, train_model
from carvana_kedro.segmentation.metrics import mask_scores
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.segmentation.training.build import check_recipe
from carvana_kedro.segmentation.training.callbacks import Callback
from carvana_kedro.segmentation.training.interrupts import TrainingInterruptedError
from carvana_kedro.segmentation.training.state import Step, Training
from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.checkpoints import CheckpointStore
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.folder import FolderStore
from carvana_kedro.stores.pixel_cache import PixelCache
from models import RECIPE, changed


def _train(
    indices: tuple[pd.DataFrame, pd.DataFrame],
    images: ImageStore,
    folder: Path,
    recipe: ModelTraining = RECIPE,
) -> tuple[TrainedModel, pd.DataFrame]:
    checkpoints = CheckpointStore(DiskFolder(folder / "checkpoints"))
    return train_model(
        *indices, images, checkpoints, DiskFolder(folder / "events"), PixelCache(folder / "pixels"), recipe
    )


def _runs(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir() if path.is_dir()}


@pytest.fixture
def indices(training_images: ImageStore) -> tuple[pd.DataFrame, pd.DataFrame]:
    index = index_images(training_images)
    return index[:12], index[12:]


def test_training_saves_model_history_checkpoints_and_events(
    indices: tuple[pd.DataFrame, pd.DataFrame], training_images: ImageStore, tmp_path: Path
) -> None:
    model, history = _train(indices, training_images, tmp_path)
    assert history["epoch"].tolist() == [1, 2]
    assert model.members[0].architecture == "unet_small"
    run_id = model.run_id
    run = CheckpointStore(DiskFolder(tmp_path / "checkpoints")).run(run_id)
    assert {path.name for path in run.folder.path.glob("last-*")} == {
        "last-000000003.pt",
        "last-000000006.pt",
    }
    events = EventAccumulator(str(tmp_path / "events" / run_id)).Reload()
    (text,) = events.Tensors("recipe/origin/text_summary")
    assert f"fingerprint `{training_images.fingerprint()}`" in text.tensor_proto.string_val[0].decode()
    best = int(history["val_dice_coeff"].to_numpy().argmax()) + 1
    assert len(run.newest("best")["history"]) == best
    about = run.newest("last")["about"]
    assert about["parameters"] == RECIPE.model_dump(mode="json")
    assert "torch" in about["versions"]

    scores, means, curve = evaluate_model(model, *indices, training_images, RECIPE)
    assert curve["threshold"].tolist() == [n / 100 for n in range(100)]
    assert curve["dice"][50] == pytest.approx(means["dice"], abs=1e-3)
    assert means["boundary_error"] > 0
    assert scores["dice"].is_monotonic_increasing
    assert set(scores["image"]) == set(indices[1]["image"])
    first = scores.iloc[0]
    mask = Predictor.from_model(model)(training_images.read_image(first["image"]))
    target = training_images.read_mask(first["image"])
    assert mask.shape == target.shape == (160, 240)
    assert first["dice"] == pytest.approx(mask_scores.dice(mask, target), abs=1e-6)
    assert means["dice"] == pytest.approx(scores["dice"].mean())
    assert means["lowest_dice"] == scores["dice"].min()

    with pytest.raises(UserError, match="trained with another split"):
        evaluate_model(model, *indices[::-1], training_images, RECIPE)

    manifest = describe_run(model, *indices, history, means, "small", {}, RECIPE)
    assert manifest["run_id"] == run_id
    assert manifest["source"] == training_images.fingerprint()
    assert manifest["parameters"]["epochs"] == 2
    assert manifest["train_cars"] == indices[0]["car"].unique().tolist()
    assert manifest["photograph_size"] == {"width": 240, "height": 160}
    assert manifest["output_size"] == {"width": 48, "height": 32}
    assert manifest["validation_cars"] == indices[1]["car"].unique().tolist()
    assert {"python", "torch", "carvana_kedro"} <= set(manifest["versions"])

    assert model.members[0].trained_on == tuple(sorted(indices[0]["digest"]))
    for other in (indices[0][:-1], indices[1], pd.concat([*indices])):
        with pytest.raises(UserError, match="trained on other images than those that are now in train_index"):
            describe_run(model, other, indices[1], history, means, "small", {}, RECIPE)


def test_a_manifest_describes_the_model_not_the_command(
    indices: tuple[pd.DataFrame, pd.DataFrame],
    training_images: ImageStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trained, history = _train(indices, training_images, tmp_path)
    dataset = ModelDataset(str(tmp_path / "model.pt"))
    dataset.save(trained)
    model = dataset.load()
    assert model is not None
    _, means, _ = evaluate_model(model, *indices, training_images, RECIPE)
    other = RECIPE.model_copy(update={"epochs": 7, "seed": 3, "num_workers": 5})
    manifest = describe_run(model, *indices, history, means, "small", {}, other)
    assert manifest["parameters"] == RECIPE.model_dump(mode="json")
    assert "trained with other parameters, which are recorded: " in caplog.text
    assert "epochs: 2 -> 7" in caplog.text
    for artefacts in ((history.assign(run_id="b"), means), (history, {**means, "run_id": "b"})):
        with pytest.raises(UserError, match=f"belongs to run b, but the model to run {model.run_id}"):
            describe_run(model, *indices, *artefacts, "small", {}, RECIPE)
    with pytest.raises(UserError, match="parameters of another version"):
        describe_run(changed(model, parameters={"a": 1}), *indices, history, means, "small", {}, RECIPE)
    describe_run(changed(model, parameters=None), *indices, history, means, "small", {}, RECIPE)
    assert "does not say which parameters it was trained with" in caplog.text


def test_results_carry_the_id_of_their_run(
    indices: tuple[pd.DataFrame, pd.DataFrame], training_images: ImageStore, tmp_path: Path
) -> None:
    in_folds = RECIPE.model_copy(update={"folds": 2, "epochs": 1})
    for recipe in (RECIPE, in_folds):
        model, history = _train(indices, training_images, tmp_path, recipe)
        scores, means, curve = evaluate_model(model, *indices, training_images, recipe)
        assert means["run_id"] == model.run_id
        for name, table in {"history": history, "scores": scores, "curve": curve}.items():
            dataset = TableDataset(filepath=str(tmp_path / f"{name}.csv"))
            dataset.save(table)
            assert dataset.load()["run_id"].unique().tolist() == [model.run_id]


def test_folds_are_averaged_and_scored_out_of_fold(
    indices: tuple[pd.DataFrame, pd.DataFrame], training_images: ImageStore, tmp_path: Path
) -> None:
    recipe = RECIPE.model_copy(update={"folds": 2})
    model, history = _train(indices, training_images, tmp_path, recipe)
    assert history[["fold", "epoch"]].to_numpy().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    first, second = model.members
    assert _runs(tmp_path) == {first.run_id, second.run_id}
    cars = {*indices[0]["car"], *indices[1]["car"]}
    assert sorted(first.validation_cars + second.validation_cars) == sorted(cars)

    # After so short a training, both models may find nothing. Make them differ: one finds the car everywhere.
    second.weights["head.bias"] += 100
    scores, means, _ = evaluate_model(model, *indices, training_images, recipe)
    assert means["images"] == len(scores) == 16
    by_image = scores.set_index("image")
    for member, other in ((first, second), (second, first)):
        rows = by_image[by_image["car"].isin(member.validation_cars)]
        dice, other_dice = (
            [
                mask_scores.dice(predictor(training_images.read_image(name)), training_images.read_mask(name))
                for name in rows.index
            ]
            for predictor in (Predictor.from_model(TrainedModel((one,))) for one in (member, other))
        )
        assert rows["dice"].tolist() == pytest.approx(dice, abs=1e-6)
        assert dice != pytest.approx(other_dice, abs=1e-4)
    with pytest.raises(UserError, match="folds do not fit these cars"):
        evaluate_model(TrainedModel((first,)), *indices, training_images, recipe)

    manifest = describe_run(model, *indices, history, means, "small", {}, recipe)
    assert manifest["train_cars"] == manifest["validation_cars"] == sorted(cars)
    assert manifest["train_images"] == manifest["validation_images"] == 16
    assert [described["run_id"] for described in manifest["models"]] == [first.run_id, second.run_id]
    assert manifest["models"][0]["validation_cars"] == list(first.validation_cars)
    assert set(first.trained_on).isdisjoint(second.trained_on)
    assert {*first.trained_on, *second.trained_on} == {*indices[0]["digest"], *indices[1]["digest"]}
    with pytest.raises(UserError, match="trained on other images"):
        describe_run(model, indices[0][1:], indices[1], history, means, "small", {}, recipe)

    # The file contains both models, for the catalog and for the library.
    dataset = ModelDataset(str(tmp_path / "model.pt"))
    dataset.save(model)
    image = training_images.read_image(training_images.ids()[0])
    expected = Predictor.from_model(model)(image)
    assert (Predictor.from_checkpoint(tmp_path / "model.pt")(image) == expected).all()
    loaded = ModelDataset(str(tmp_path / "none.pt"), checkpoint=str(tmp_path / "model.pt")).load()
    assert loaded.run_id == f"{first.run_id}+{second.run_id}"
    assert (Predictor.from_model(loaded)(image) == expected).all()


class StopAt(Callback):
    """A user's callback. It interrupts the run after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, run: Training, step: Step) -> None:
        run.interrupted = lambda: run.steps == self.steps


def test_an_interrupted_run_resumes_and_tensorboard_shows_no_duplicates(
    indices: tuple[pd.DataFrame, pd.DataFrame],
    training_images: ImageStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 3, "cache": "none"})
    uninterrupted, expected = _train(indices, training_images, tmp_path / "uninterrupted", recipe)
    # Callbacks, the cache and the number of checkpoints do not change the result, so this is the same run.
    callback = {"type": f"{__name__}.StopAt", "steps": 4}
    stopped = recipe.model_copy(update={"callbacks": (callback,), "cache": "device", "checkpoint_minutes": 0})
    with pytest.raises(TrainingInterruptedError, match="in epoch 2, after step 1"):
        _train(indices, training_images, tmp_path, stopped)
    time.sleep(1.1)  # TensorBoard orders files by the second in which they were created
    with caplog.at_level("INFO"):
        model, history = _train(indices, training_images, tmp_path, recipe)
    assert "resumes in epoch 2 of 3, after step 1 of 3" in caplog.text
    assert "unet_small on cpu" in caplog.text
    clocks = ["seconds", "images_per_second", "data_wait_share", "share_of_peak"]
    pd.testing.assert_frame_equal(history.drop(columns=clocks), expected.drop(columns=clocks))
    assert model.run_id == uninterrupted.run_id
    for name, weight in uninterrupted.members[0].weights.items():
        assert torch.equal(weight, model.members[0].weights[name])
    events = EventAccumulator(str(tmp_path / "events" / model.run_id))
    events.Reload()
    scalars = events.Scalars("data/train_loss")
    assert [scalar.step for scalar in scalars] == [1, 2, 3]
    assert [scalar.value for scalar in scalars] == pytest.approx(history["train_loss"].tolist())


def test_a_run_that_starts_from_a_model_resumes_from_its_checkpoint_and_names_it(
    indices: tuple[pd.DataFrame, pd.DataFrame],
    training_images: ImageStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, _ = _train(indices, training_images, tmp_path / "first")
    path = tmp_path / "model.pt"
    ModelDataset(str(path)).save(first)
    recipe = RECIPE.model_copy(update={"init_from": str(path), "ema_decay": 0.9})
    expected, _ = _train(indices, training_images, tmp_path / "uninterrupted", recipe)
    assert "their scores will be too high" not in caplog.text

    stopped = recipe.model_copy(
        update={"callbacks": ({"type": f"{__name__}.StopAt", "steps": 4},), "checkpoint_minutes": 0}
    )
    with pytest.raises(TrainingInterruptedError, match="in epoch 2, after step 1"):
        _train(indices, training_images, tmp_path, stopped)
    # Calling it would fail.
    monkeypatch.setattr("carvana_kedro.segmentation.training.build.read_start", None)
    monkeypatch.setattr("carvana_kedro.pipelines.model_training.nodes.read_start", None)
    model, history = _train(indices, training_images, tmp_path, recipe)
    (member,) = model.members
    assert model.run_id == expected.run_id != first.run_id
    assert all(
        torch.equal(weights, member.weights[name]) for name, weights in expected.members[0].weights.items()
    )

    assert (
        member.started_from
        == expected.members[0].started_from
        == {
            "path": str(path),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "run_id": first.run_id,
            "architecture": "unet_small",
            "validation_images_seen": 0,
        }
    )
    dataset = ModelDataset(str(tmp_path / "second.pt"))
    dataset.save(model)
    assert dataset.load().members[0].started_from == member.started_from
    _, means, _ = evaluate_model(model, *indices, training_images, recipe)
    manifest = describe_run(model, *indices, history, means, "small", {}, recipe)
    assert manifest["models"][0]["started_from"] == member.started_from


def test_folds_start_from_one_model_and_validation_images_that_it_knows_are_told(
    indices: tuple[pd.DataFrame, pd.DataFrame],
    training_images: ImageStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, _ = _train(indices, training_images, tmp_path / "first")  # on 12 of the 16 images
    path = tmp_path / "model.pt"
    ModelDataset(str(path)).save(first)
    recipe = RECIPE.model_copy(update={"init_from": str(path), "folds": 2, "epochs": 1})
    model, _ = _train(indices, training_images, tmp_path, recipe)
    started_from = [member.started_from for member in model.members]
    assert [start["run_id"] for start in started_from] == [first.run_id] * 2
    assert sum(start["validation_images_seen"] for start in started_from) == 12
    for start in started_from:
        assert (
            f"was trained on {start['validation_images_seen']} of the 8 validation images: their scores will be"
            in caplog.text
        )


def test_a_checkpoint_that_cannot_be_written_loses_nothing(
    indices: tuple[pd.DataFrame, pd.DataFrame],
    training_images: ImageStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, expected_history = _train(indices, training_images, tmp_path / "undisturbed")
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if target.name == "last-000000006.pt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(
            UserError, match=r"last-000000006\.pt cannot be written: No space left on device\. Free"
        ):
            _train(indices, training_images, tmp_path)
    model, history = _train(indices, training_images, tmp_path)
    clocks = ["seconds", "images_per_second", "data_wait_share", "share_of_peak"]
    pd.testing.assert_frame_equal(history.drop(columns=clocks), expected_history.drop(columns=clocks))
    for name, weight in expected.members[0].weights.items():
        assert torch.equal(weight, model.members[0].weights[name])


def test_damaged_facts_of_an_earlier_run_do_not_stop_a_new_one(
    indices: tuple[pd.DataFrame, pd.DataFrame],
    training_images: ImageStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    earlier = tmp_path / "checkpoints" / "0123456789ab"
    earlier.mkdir(parents=True)
    (earlier / "run.json").write_text("")
    model, _ = _train(indices, training_images, tmp_path)
    assert f"{earlier / 'run.json'} is damaged" in caplog.text
    assert _runs(tmp_path) == {earlier.name, model.run_id}


def test_a_finished_run_is_not_trained_again(
    indices: tuple[pd.DataFrame, pd.DataFrame],
    training_images: ImageStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, history = _train(indices, training_images, tmp_path)
    # Calling it would fail.
    monkeypatch.setattr("carvana_kedro.pipelines.model_training.nodes.train", None)
    with caplog.at_level("INFO"):
        again, same = _train(indices, training_images, tmp_path)
    assert f"Run {model.run_id} is finished, and nothing that decides its result has changed" in caplog.text
    pd.testing.assert_frame_equal(history, same)
    assert again.members[0].weights.keys() == model.members[0].weights.keys()


def test_a_new_run_logs_how_it_differs_and_deletes_nothing(
    indices: tuple[pd.DataFrame, pd.DataFrame],
    training_images: ImageStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, _ = _train(indices, training_images, tmp_path)
    with caplog.at_level("INFO"):
        second, _ = _train(indices, training_images, tmp_path, RECIPE.model_copy(update={"seed": 1}))
    assert f"This run differs from run {first.run_id} in parameters.seed: 2017 -> 1" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        third, _ = _train((indices[0][:8], indices[1]), training_images, tmp_path)
    assert f"This run differs from run {second.run_id} in parameters.seed: 1 -> 2017; images: " in caplog.text
    assert _runs(tmp_path) == {first.run_id, second.run_id, third.run_id}
    assert len(_runs(tmp_path)) == 3


@pytest.mark.parametrize("cache", ["memory", "memmap", "device", "auto"])
def test_a_cache_does_not_change_the_result(
    indices: tuple[pd.DataFrame, pd.DataFrame], training_images: ImageStore, tmp_path: Path, cache: str
) -> None:
    expected, _ = _train(
        indices, training_images, tmp_path / "none", RECIPE.model_copy(update={"cache": "none"})
    )
    model, _ = _train(indices, training_images, tmp_path / cache, RECIPE.model_copy(update={"cache": cache}))
    for name, weight in expected.members[0].weights.items():
        assert torch.equal(weight, model.members[0].weights[name])
    assert bool(list((tmp_path / cache / "pixels").glob("*"))) == (cache == "memmap")


@pytest.mark.parametrize("cache", ["memory", "device", "auto"])
def test_folds_share_the_decoded_images(
    indices: tuple[pd.DataFrame, pd.DataFrame],
    training_images: ImageStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    cache: str,
) -> None:
    caplog.set_level("INFO")
    _train(
        indices,
        training_images,
        tmp_path,
        RECIPE.model_copy(update={"cache": cache, "folds": 2, "epochs": 1}),
    )
    assert caplog.text.count("Caching 16 decoded images") == 1
    assert caplog.text.count("cache=auto: memory") == (cache == "auto")
    assert "Fold 2 of 2" in caplog.text


def _shift_masks(folder: Path, pixels: int) -> None:
    """Move what the masks show to the right. The sizes of the bmp files stay the same."""
    for path in folder.iterdir():
        size, times = path.stat().st_size, path.stat()
        shifted = np.roll(np.asarray(Image.open(path)), pixels, axis=1)
        Image.fromarray(shifted).save(path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert path.stat().st_size == size


@pytest.mark.parametrize("cache", ["none", "memmap"])
def test_masks_of_other_content_and_equal_size_need_another_index_and_another_run(
    training_images: ImageStore, tmp_path: Path, cache: str
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for image_id in training_images.ids():
        Image.fromarray(training_images.read_mask(image_id) * 255).save(masks / f"{image_id}.bmp")
    store = FolderStore(training_images.images, masks, group="(.+)_..")
    recipe = RECIPE.model_copy(update={"cache": cache, "epochs": 1})

    def indices() -> tuple[pd.DataFrame, pd.DataFrame]:
        index = index_images(store)
        return index[:12], index[12:]

    before = indices()
    first, _ = _train(before, store, tmp_path / "runs", recipe)
    _shift_masks(masks, 40)
    with pytest.raises(UserError, match="made from other files"):
        _train(before, store, tmp_path / "runs", recipe)
    second, _ = _train(indices(), store, tmp_path / "runs", recipe)
    expected, _ = _train(indices(), store, tmp_path / "fresh", recipe)
    assert first.run_id != second.run_id == expected.run_id
    weights = [model.members[0].weights["head.weight"] for model in (first, second, expected)]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])
    _shift_masks(masks, -40)
    again, _ = _train(indices(), store, tmp_path / "runs", recipe)
    assert again.run_id == first.run_id


def test_two_sides_of_different_splits_are_refused(
    indices: tuple[pd.DataFrame, pd.DataFrame], training_images: ImageStore, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="of two splits: both have the car"):
        _train((indices[0], pd.concat([indices[0][-1:], indices[1]])), training_images, tmp_path)
    older = indices[1].assign(source="older")
    with pytest.raises(UserError, match="made from other files"):
        _train((indices[0], older), training_images, tmp_path)


def test_a_file_that_changes_during_the_run_is_told_and_never_cached(
    broken: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ImageStore(broken / "train", broken / "train_masks")
    first, second, *_ = store.ids()
    content = [store.mask_path(image_id).read_bytes() for image_id in (first, second)]
    index = index_images(store)
    read_mask = ImageStore.read_mask

    def disturbed(self: ImageStore, image_id: str) -> np.ndarray:
        with atomic_path(store.mask_path(first)) as part:  # other threads read the file
            part.write_bytes(content[1])
        return read_mask(self, image_id)

    recipe = RECIPE.model_copy(update={"cache": "memmap", "epochs": 1})
    with monkeypatch.context() as disk:
        disk.setattr(ImageStore, "read_mask", disturbed)
        with pytest.raises(UserError, match="changed while they were decoded"):
            _train((index[:12], index[12:]), store, tmp_path, recipe)
        assert not list((tmp_path / "pixels").glob("*.npy"))
        store.mask_path(first).write_bytes(content[0])
        _train((index[:12], index[12:]), store, tmp_path, recipe.model_copy(update={"cache": "none"}))
    assert "it may have seen both contents" in caplog.text


def test_a_lost_best_model_is_replaced_by_the_last_one_with_a_warning(
    indices: tuple[pd.DataFrame, pd.DataFrame],
    training_images: ImageStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, history = _train(indices, training_images, tmp_path)
    best = int(history["val_dice_coeff"].to_numpy().argmax()) + 1
    for path in tmp_path.rglob("best-*.pt"):
        path.write_bytes(b"")
    model, _ = _train(indices, training_images, tmp_path)
    assert f"The model of the best epoch, {best}, is lost" in caplog.text
    assert "The model of epoch 2 is used" in caplog.text
    last = CheckpointStore(DiskFolder(tmp_path / "checkpoints")).run(model.run_id).newest("last")
    for name, weight in last["model"]["weights"].items():
        assert torch.equal(weight, model.members[0].weights[name])


class StopAtTheEnd(Callback):
    """Interrupts the run while the last epoch is saved."""

    def on_epoch_end(self, run: Training) -> None:
        run.interrupted = lambda: run.finished


def test_a_signal_after_the_last_step_interrupts_the_run(
    indices: tuple[pd.DataFrame, pd.DataFrame], training_images: ImageStore, tmp_path: Path
) -> None:
    stopped = RECIPE.model_copy(update={"callbacks": (f"{__name__}.StopAtTheEnd",)})
    with pytest.raises(TrainingInterruptedError, match="Training is finished and saved"):
        _train(indices, training_images, tmp_path, stopped)
    _, history = _train(indices, training_images, tmp_path)
    assert len(history) == RECIPE.epochs


def test_resuming_with_other_libraries_logs_a_warning(
    indices: tuple[pd.DataFrame, pd.DataFrame],
    training_images: ImageStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop = {"type": f"{__name__}.StopAt", "steps": 2}
    with pytest.raises(TrainingInterruptedError):
        _train(indices, training_images, tmp_path, RECIPE.model_copy(update={"callbacks": (stop,)}))
    before = provenance.versions()
    monkeypatch.setattr(provenance, "versions", lambda: {**before, "torch": "9.9"})
    _train(indices, training_images, tmp_path)
    assert (
        f"resumes in other surroundings than before: versions.torch: {before['torch']} -> 9.9" in caplog.text
    )


def test_an_input_size_that_the_network_does_not_take_is_refused(
    indices: tuple[pd.DataFrame, pd.DataFrame], training_images: ImageStore, tmp_path: Path
) -> None:
    recipe = RECIPE.model_copy(update={"architecture": "unet_original"})
    with pytest.raises(UserError, match="32"):
        _train(indices, training_images, tmp_path, recipe)
    with pytest.raises(UserError, match="32"):
        check_recipe(recipe.to_recipe())


def test_an_index_of_another_source_is_refused(
    indices: tuple[pd.DataFrame, pd.DataFrame], test_images: ImageStore, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="made from other files"):
        _train(indices, test_images, tmp_path)


@pytest.mark.parametrize("part", ["network", "model", "history"])
def test_a_finished_run_of_an_earlier_version_that_diverged_is_refused(
    indices: tuple[pd.DataFrame, pd.DataFrame], training_images: ImageStore, tmp_path: Path, part: str
) -> None:
    model, _ = _train(indices, training_images, tmp_path)
    run = CheckpointStore(DiskFolder(tmp_path / "checkpoints")).run(model.run_id)
    state = run.newest("last")
    assert state and state["finished"]
    if part == "history":
        state["history"][-1]["train_loss"] = float("nan")
    else:
        weights = state["network"] if part == "network" else state["model"]["weights"]
        weights["head.bias"] = torch.full_like(weights["head.bias"], float("inf"))
    run.save("last", state["steps"], state)
    with pytest.raises(UserError, match=rf"The finished run {run.folder} diverged: .*(nan|infinite)"):
        _train(indices, training_images, tmp_path)


def test_a_training_that_diverges_gives_no_model_however_often_it_is_tried(
    indices: tuple[pd.DataFrame, pd.DataFrame], training_images: ImageStore, tmp_path: Path
) -> None:
    optimizer = RECIPE.optimizer.model_copy(update={"learning_rate": 1e30})
    recipe = RECIPE.model_copy(update={"optimizer": optimizer})
    for _ in range(2):
        with pytest.raises(UserError, match=r"(diverged|were skipped).*smaller learning rate"):
            _train(indices, training_images, tmp_path, recipe)
    for path in (tmp_path / "checkpoints").glob("*/last-*.pt"):
        assert not torch.load(path)["finished"]
