import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import Inference
from carvana_kedro.pipelines.inference.nodes import (
    predict_masks,
    summarize_predictions,
    write_submission,
)
from carvana_kedro.predicting import work
from carvana_kedro.prediction_plan import select_test_images
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores import processes, run_lengths
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.folder import FolderStore
from carvana_kedro.stores.predictions import KINDS, PredictedImages, PredictionShards
from models import RECIPE, changed

NO_IMAGES = PredictedImages(DiskFolder(Path("nowhere")))
SOURCE = SourceDescription(name="mine")


def test_every_test_image_has_a_row_in_the_submission(
    model: TrainedModel, test_images: ImageStore, tmp_path: Path
) -> None:
    shards = PredictionShards(DiskFolder(tmp_path))
    parameters = Inference(batch_size=3, shard_size=3)
    predictions = predict_masks(
        model, index_images(test_images), test_images, shards, NO_IMAGES, parameters, RECIPE, SOURCE
    )
    assert predictions["images"] == 4
    assert len(predictions["shards"]) == 2
    rows = list(write_submission(predictions, shards))
    assert [image_id for image_id, _ in rows] == list(test_images.expected or ())
    predictor = Predictor.from_model(model)
    for image_id, runs in rows:
        expected = predictor(test_images.read_image(image_id))
        found = run_lengths.decode(runs, *expected.shape)
        assert (expected != found).mean() < 0.001


def test_shards_of_other_parameters_are_not_used(
    model: TrainedModel, test_images: ImageStore, tmp_path: Path
) -> None:
    index, shards = index_images(test_images), PredictionShards(DiskFolder(tmp_path))
    first, second = (
        predict_masks(
            model, index, test_images, shards, NO_IMAGES, Inference(threshold=threshold), RECIPE, SOURCE
        )
        for threshold in (0.5, 0.6)
    )
    assert not set(first["shards"]) & set(second["shards"])


def test_images_of_other_content_and_equal_size_are_predicted_again(
    model: TrainedModel, broken: Path, tmp_path: Path
) -> None:
    store = ImageStore(broken / "test")
    first, second, *_ = (store.image_path(image_id) for image_id in store.ids())
    longest = max(path.stat().st_size for path in (first, second)) + 10
    for path in (first, second):  # both get the same size; decoders ignore what follows the image
        path.write_bytes(path.read_bytes() + bytes(longest - path.stat().st_size - 2) + b"\xff\xd9")
    shards = PredictionShards(DiskFolder(tmp_path / "shards"))

    def predict(index: pd.DataFrame) -> dict[str, str]:
        # An untrained network answers nearly the same everywhere. This threshold is between its answers.
        parameters = Inference(threshold=0.6387)
        predictions = predict_masks(model, index, store, shards, NO_IMAGES, parameters, RECIPE, SOURCE)
        return dict(shards.read(predictions["shards"]))

    index = index_images(store)
    before = predict(index)
    assert before[first.stem] != before[second.stem]
    between = tmp_path / "between"
    shutil.move(first, between)
    shutil.move(second, first)
    shutil.move(between, second)
    with pytest.raises(UserError, match="made from other files"):
        predict(index)
    after = predict(index_images(store))
    assert after == {**before, first.stem: before[second.stem], second.stem: before[first.stem]}


@pytest.mark.parametrize(
    ("options", "expected"), [({}, 0.4), ({"fill_holes": True}, None), ({"keep_largest": True}, None)]
)
def test_edges_are_found_with_the_logits_unless_the_masks_themselves_are_needed(
    options: dict[str, bool],
    expected: float | None,
    model: TrainedModel,
    test_images: ImageStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predict, asked = Predictor.predict, []

    def predict_and_record(*arguments: Any, **options: Any) -> Any:
        asked.append(options["threshold"])
        return predict(*arguments, **options)

    monkeypatch.setattr(Predictor, "predict", predict_and_record)
    index, shards = index_images(test_images), PredictionShards(DiskFolder(tmp_path))
    parameters = Inference(threshold=0.4, **options)
    predict_masks(model, index, test_images, shards, NO_IMAGES, parameters, RECIPE, SOURCE)
    assert asked == [expected]


def test_images_that_change_while_they_are_predicted_stop_the_run(
    model: TrainedModel, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, shards = ImageStore(broken / "test"), PredictionShards(DiskFolder(tmp_path / "shards"))
    index = index_images(store)
    first, second, *_ = (store.image_path(image_id) for image_id in store.ids())
    predict = Predictor.predict

    def predict_and_change(*arguments: Any, **options: Any) -> Any:
        first.write_bytes(second.read_bytes())
        yield from predict(*arguments, **options)

    monkeypatch.setattr(Predictor, "predict", predict_and_change)
    with pytest.raises(UserError, match="changed while they were predicted"):
        predict_masks(model, index, store, shards, NO_IMAGES, Inference(), RECIPE, SOURCE)
    assert not list((tmp_path / "shards").rglob("*.csv"))


def test_a_test_image_with_a_problem_stops_the_run(broken: Path, test_images: ImageStore) -> None:
    store = ImageStore(broken / "test", expected=test_images.expected)
    missing = store.ids()[1]
    store.image_path(missing).unlink()
    with pytest.raises(UserError, match=rf"{missing}: the image is missing\nEvery test image needs a mask"):
        select_test_images(index_images(store), store, Inference())


def test_test_images_may_have_any_size(broken: Path) -> None:
    store = ImageStore(broken / "test")
    Image.new("RGB", (50, 40)).save(store.image_path(store.ids()[0]))
    assert select_test_images(index_images(store), store, Inference())["image"].tolist() == store.ids()


def test_on_bad_image_empty_leaves_masks_of_unreadable_images_empty(
    broken: Path,
    test_images: ImageStore,
    model: TrainedModel,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = ImageStore(broken / "test", expected=test_images.expected)
    missing, damaged, *_ = store.ids()
    store.image_path(missing).unlink()
    store.image_path(damaged).write_bytes(b"no image")
    parameters = Inference(on_bad_image="empty", threshold=0.01)
    index = select_test_images(index_images(store), store, parameters)
    assert f"2 masks will be empty:\n  {missing}: the image is missing" in caplog.text
    predictions = predict_masks(
        model, index, store, PredictionShards(DiskFolder(tmp_path)), NO_IMAGES, parameters, RECIPE, SOURCE
    )
    rows = dict(write_submission(predictions, PredictionShards(DiskFolder(tmp_path))))
    assert list(rows) == list(test_images.expected or ())
    assert [image_id for image_id, runs in rows.items() if not runs] == [missing, damaged]
    assert predictions["problems"] == {}  # the index knows them


class Unreadable(ImageStore):
    """A store that fails to read some images at first, like a network drive."""

    def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
        if (self.images / f"{image_id}.offline").exists():
            raise UserError(f"{image_id} cannot be read now.")
        return super().read_image(image_id, at_least)


def test_an_image_that_could_not_be_read_is_predicted_by_the_next_run(
    broken: Path, test_images: ImageStore, model: TrainedModel, tmp_path: Path
) -> None:
    store = Unreadable(broken / "test", expected=test_images.expected)
    away, *_ = store.ids()
    shards, images = PredictionShards(DiskFolder(tmp_path / "shards")), PredictedImages(DiskFolder(tmp_path))
    parameters = Inference(on_bad_image="empty", threshold=0.01, shard_size=3, masks=True)
    index = index_images(store)
    arguments = (model, index, store, shards, images, parameters, RECIPE, SOURCE)
    (store.images / f"{away}.offline").touch()
    for _ in range(2):  # the second run fails in the same way
        predictions = predict_masks(*arguments)
        assert predictions["problems"] == {away: f"{away} cannot be read now."}
        assert dict(write_submission(predictions, shards))[away] == ""
        assert not (tmp_path / f"masks/{away}.png").exists()
        summary = summarize_predictions(predictions, index, shards, images, parameters, SOURCE)
        assert summary.set_index("image").loc[away, "problems"] == f"{away} cannot be read now."
    (store.images / f"{away}.offline").unlink()
    predictions = predict_masks(*arguments)
    assert predictions["problems"] == {}
    assert dict(write_submission(predictions, shards))[away]
    assert (tmp_path / f"masks/{away}.png").is_file()
    assert len(list((tmp_path / "shards").glob("*/00000-*.csv"))) == 1


def test_an_image_with_a_problem_in_the_index_gets_no_mask_even_if_it_can_be_read(
    training_images: ImageStore, model: TrainedModel, tmp_path: Path
) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number, size in enumerate([(240, 160), (5, 5), (240, 160)]):
        image = training_images.read_image(training_images.ids()[number])
        Image.fromarray(image).resize(size).save(folder / f"car{number}.png")
    store = FolderStore(folder)
    shards, images = PredictionShards(DiskFolder(tmp_path / "shards")), PredictedImages(DiskFolder(tmp_path))
    parameters = Inference(on_bad_image="empty", threshold=0.01, masks=True, cutouts=True, overlays=True)
    index = select_test_images(index_images(store), store, parameters)
    predictions = predict_masks(model, index, store, shards, images, parameters, RECIPE, SOURCE)
    rows = dict(write_submission(predictions, shards))
    assert [image_id for image_id, runs in rows.items() if not runs] == ["car1"]
    assert sorted(path.stem for path in (tmp_path / "masks").iterdir()) == ["car0", "car2"]
    assert not list(tmp_path.rglob("car1.[pj][np]g"))[1:]  # only the photograph
    summary = summarize_predictions(predictions, index, shards, images, parameters, SOURCE).set_index("image")
    assert summary.loc["car1", "covered"] == 0 and "5x5 pixels" in summary.loc["car1", "problems"]


def test_an_image_that_is_not_in_the_sample_submission_gets_no_row(
    broken: Path,
    test_images: ImageStore,
    model: TrainedModel,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = ImageStore(broken / "test", expected=test_images.expected)
    store.image_path("0123456789ab_01").hardlink_to(store.image_path(store.ids()[0]))
    with pytest.raises(UserError, match=r"0123456789ab_01: not in sample_submission\.csv"):
        select_test_images(index_images(store), store, Inference())
    parameters = Inference(on_bad_image="empty")
    index = select_test_images(index_images(store), store, parameters)
    assert "1 images are not in sample_submission.csv. They are left out:\n  0123456789ab_01" in caplog.text
    assert "will be empty" not in caplog.text
    shards = PredictionShards(DiskFolder(tmp_path / "shards"))
    predictions = predict_masks(model, index, store, shards, NO_IMAGES, parameters, RECIPE, SOURCE)
    assert [image_id for image_id, _ in write_submission(predictions, shards)] == list(store.expected or ())


def test_the_threshold_auto_is_the_best_one_of_the_validation(
    model: TrainedModel, test_images: ImageStore, tmp_path: Path
) -> None:
    index, shards = index_images(test_images), PredictionShards(DiskFolder(tmp_path))
    with pytest.raises(UserError, match="this model has not been validated"):
        predict_masks(
            model, index, test_images, shards, NO_IMAGES, Inference(threshold="auto"), RECIPE, SOURCE
        )
    named, best = (
        predict_masks(
            of, index, test_images, shards, NO_IMAGES, Inference(threshold=threshold), RECIPE, SOURCE
        )
        for of, threshold in ((model, 0.4), (changed(model, best_threshold=0.4), "auto"))
    )
    assert list(shards.read(named["shards"])) == list(shards.read(best["shards"]))


def test_existing_shards_are_used_only_with_the_same_model_and_parameters(
    model: TrainedModel,
    test_images: ImageStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, shards = index_images(test_images), PredictionShards(DiskFolder(tmp_path))
    first = predict_masks(
        model, index, test_images, shards, NO_IMAGES, Inference(shard_size=3), RECIPE, SOURCE
    )
    with monkeypatch.context() as patched, caplog.at_level("INFO"):
        patched.setattr(Predictor, "from_model", None)  # calling it would fail
        again = predict_masks(
            model,
            index,
            test_images,
            shards,
            NO_IMAGES,
            Inference(shard_size=3, batch_size=1, num_workers=1),
            RECIPE,
            SOURCE,
        )
    assert again == first
    assert "2 of 2 shards of masks exist from an earlier run" in caplog.text
    trained = {
        name: weight + 0.01 if weight.is_floating_point() else weight
        for name, weight in model.members[0].weights.items()
    }
    for other in (changed(model, weights=trained), model):
        parameters = Inference(shard_size=3, keep_largest=other is model)
        found = predict_masks(other, index, test_images, shards, NO_IMAGES, parameters, RECIPE, SOURCE)
        assert not set(found["shards"]) & set(first["shards"])


def test_requested_images_are_written_and_replaced_if_missing(
    model: TrainedModel, test_images: ImageStore, tmp_path: Path
) -> None:
    index, shards = index_images(test_images), PredictionShards(DiskFolder(tmp_path / "shards"))
    images = PredictedImages(DiskFolder(tmp_path))
    parameters = Inference(masks=True, cutouts=True, overlays=True, threshold=0.48)
    predictions = predict_masks(model, index, test_images, shards, images, parameters, RECIPE, SOURCE)
    rows = dict(write_submission(predictions, shards))
    for image_id, runs in rows.items():
        image = test_images.read_image(image_id)
        mask = np.array(Image.open(tmp_path / "masks" / f"{image_id}.png"))
        assert np.array_equal(mask, 255 * run_lengths.decode(runs, *image.shape[:2]))
        cutout = np.array(Image.open(tmp_path / "cutouts" / f"{image_id}.png"))
        assert cutout.shape == (*image.shape[:2], 4)
        opaque = cutout[..., 3] == 255
        assert opaque.any() and np.array_equal(cutout[opaque][:, :3], image[opaque])
        assert Image.open(tmp_path / "overlays" / f"{image_id}.jpg").size == image.shape[1::-1]
    removed = tmp_path / "cutouts" / f"{image_id}.png"
    content = removed.read_bytes()
    removed.unlink()
    predict_masks(model, index, test_images, shards, images, parameters, RECIPE, SOURCE)
    assert removed.read_bytes() == content
    on_white = parameters.model_copy(update={"background": "#ffffff", "masks": False})
    predict_masks(model, index, test_images, shards, images, on_white, RECIPE, SOURCE)
    assert np.array(Image.open(removed)).shape == image.shape


def _shown(folder: Path, kind: str) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (folder / kind).glob("*.*")}


@pytest.mark.parametrize(
    "other",
    [
        {"threshold": 0.99},
        {"background": "#ff0000"},
        {"masks": False, "overlays": False},
    ],
    ids=["threshold", "background", "kinds"],
)
def test_images_are_those_of_the_last_prediction_however_they_alternate(
    model: TrainedModel, test_images: ImageStore, tmp_path: Path, other: dict[str, Any]
) -> None:
    index, shards = index_images(test_images), PredictionShards(DiskFolder(tmp_path / "both/shards"))
    first = Inference(masks=True, cutouts=True, overlays=True, threshold=0.48, shard_size=3)
    second = first.model_copy(update=other)
    for number, parameters in enumerate([first, second, first, second, second]):
        both, alone = (PredictedImages(DiskFolder(tmp_path / name)) for name in ("both", f"{number}"))
        predict_masks(model, index, test_images, shards, both, parameters, RECIPE, SOURCE)
        fresh = PredictionShards(DiskFolder(alone.folder.path / "shards"))
        predict_masks(model, index, test_images, fresh, alone, parameters, RECIPE, SOURCE)
        for kind in KINDS:
            assert _shown(both.folder.path, kind) == _shown(alone.folder.path, kind)
            assert len(_shown(both.folder.path, kind)) == 4 * (kind in _requested(parameters))
    assert any(_shown(tmp_path / "0", kind) != _shown(tmp_path / "1", kind) for kind in KINDS)


def _requested(parameters: Inference) -> list[str]:
    return [kind for kind in KINDS if getattr(parameters, kind)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        Path.unlink,
        lambda path: path.write_bytes(b"x" * path.stat().st_size),
    ],
)
def test_damaged_images_are_written_again(
    model: TrainedModel, test_images: ImageStore, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    index, shards, images = (
        index_images(test_images),
        PredictionShards(DiskFolder(tmp_path / "shards")),
        PredictedImages(DiskFolder(tmp_path)),
    )
    parameters = Inference(masks=True, overlays=True, threshold=0.48)
    arguments = (model, index, test_images, shards, images, parameters, RECIPE, SOURCE)
    first = predict_masks(*arguments)
    before = {kind: _shown(tmp_path, kind) for kind in KINDS}
    damage(next((tmp_path / "overlays").iterdir()))
    assert predict_masks(*arguments) == first
    assert {kind: _shown(tmp_path, kind) for kind in KINDS} == before


def test_a_copied_folder_is_not_predicted_again(
    model: TrainedModel, test_images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, parameters = index_images(test_images), Inference(masks=True)

    def predict(folder: Path) -> dict[str, Any]:
        shards, images = PredictionShards(DiskFolder(folder / "shards")), PredictedImages(DiskFolder(folder))
        return predict_masks(model, index, test_images, shards, images, parameters, RECIPE, SOURCE)

    first = predict(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    monkeypatch.setattr(Predictor, "from_model", None)  # calling it would fail
    assert predict(tmp_path / "two") == first


def test_images_of_a_removed_photograph_go_and_files_of_the_user_stay(
    model: TrainedModel, broken: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ImageStore(broken / "test")
    shards, images = PredictionShards(DiskFolder(tmp_path / "shards")), PredictedImages(DiskFolder(tmp_path))
    parameters = Inference(masks=True, overlays=True)

    def predict() -> None:
        predict_masks(model, index_images(store), store, shards, images, parameters, RECIPE, SOURCE)

    predict()
    removed, edited, *kept = store.ids()
    store.image_path(removed).unlink()
    store.image_path(edited).unlink()
    (tmp_path / f"masks/{edited}.png").write_bytes(b"retouched")
    (tmp_path / "masks/notes.txt").write_text("mine")
    (tmp_path / "overlays/a.jpg.12345678.part").touch()
    with caplog.at_level("INFO"):
        predict()
    assert sorted(path.stem for path in (tmp_path / "masks").iterdir()) == sorted([edited, *kept, "notes"])
    assert sorted(path.stem for path in (tmp_path / "overlays").iterdir()) == sorted(kept)
    assert f"Removed 3 images of earlier predictions from {tmp_path}" in caplog.text
    assert caplog.text.count("do not belong to this prediction") == 1
    assert "2 files in" in caplog.text


def test_the_summary_describes_the_mask_of_every_image(
    broken: Path,
    test_images: ImageStore,
    model: TrainedModel,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = ImageStore(broken / "test", expected=test_images.expected)
    missing, *others = store.ids()
    store.image_path(missing).unlink()
    shards, images = PredictionShards(DiskFolder(tmp_path / "shards")), PredictedImages(DiskFolder(tmp_path))
    parameters = Inference(on_bad_image="empty", masks=True, shard_size=3, threshold=0.48)
    index = select_test_images(index_images(store), store, parameters)
    predictions = predict_masks(model, index, store, shards, images, parameters, RECIPE, SOURCE)
    with caplog.at_level("INFO"):
        summary = summarize_predictions(predictions, index, shards, images, parameters, SOURCE).set_index(
            "image"
        )
    assert sorted(summary.index) == sorted([missing, *others])
    predictor = Predictor.from_model(model)
    assert summary.loc[missing, ["covered", "runs", "problems"]].tolist() == [0, 0, "the image is missing"]
    for image_id in others:
        mask = np.array(Image.open(tmp_path / "masks" / f"{image_id}.png")) > 0
        width, height, covered, runs, doubt, problems = summary.loc[image_id]
        assert (height, width) == mask.shape
        assert (covered, runs) == (pytest.approx(mask.mean()), run_lengths.find_edges(mask).size / 2)
        assert not problems
        assert doubt == pytest.approx(predictor.predict_one(store.read_image(image_id)).doubt(), abs=0.1)
    assert np.isnan(summary.loc[missing, "doubt"])
    shares = summary.loc[others, "covered"]
    assert (
        f"from {shares.min():.1%} ({shares.idxmin()}) to {shares.max():.1%} ({shares.idxmax()})"
        in caplog.text
    )
    assert (
        "4 images\n  empty masks: 1, 1 of them because of a problem with the image\n  other masks cover"
        in caplog.text
    )
    assert f"masks are in {tmp_path}" in caplog.text
    assert caplog.text.count("4 images") == 1
    # A run that finds all shards summarizes the same.
    again = predict_masks(model, index, store, shards, images, parameters, RECIPE, SOURCE)
    kept = summarize_predictions(again, index, shards, images, parameters, SOURCE).set_index("image")
    pd.testing.assert_frame_equal(kept, summary)


def test_onnx_runtime_predicts_the_same_masks_into_other_shards(
    model: TrainedModel, test_images: ImageStore, tmp_path: Path
) -> None:
    index, shards = index_images(test_images), PredictionShards(DiskFolder(tmp_path))
    masks, names = [], []
    for engine in ("torch", "onnxruntime"):
        parameters = Inference(engine=engine, precision="float32", threshold=0.48)
        predictions = predict_masks(model, index, test_images, shards, NO_IMAGES, parameters, RECIPE, SOURCE)
        names.append(predictions["shards"])
        masks.append(
            [run_lengths.decode(runs, *test_images.size(name)) for name, runs in shards.read(names[-1])]
        )
    assert not set(names[0]) & set(names[1])
    for one, other in zip(*masks, strict=True):
        assert one.any() and (one != other).mean() < 0.001


@pytest.mark.parametrize("cores", [1, 3])
def test_a_photograph_that_vanishes_stops_the_run_and_the_next_run_continues(
    broken: Path, model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(processes, "usable_cores", lambda: cores)

    class Vanishing(ImageStore):
        """A store that reads an image for the network, but not again for its pictures."""

        def read_image(self, image_id: str, at_least: tuple[int, int] | None = None) -> np.ndarray:
            if at_least is None and image_id == self.ids()[2]:
                raise UserError(f"{image_id} is gone.")
            return super().read_image(image_id, at_least)

    parameters = Inference(masks=True, cutouts=True, overlays=True, threshold=0.48, shard_size=2)

    def predict(store: ImageStore, folder: Path) -> dict[str, Any]:
        shards, images = PredictionShards(DiskFolder(folder / "shards")), PredictedImages(DiskFolder(folder))
        return predict_masks(model, index_images(store), store, shards, images, parameters, RECIPE, SOURCE)

    store = ImageStore(broken / "test")
    with pytest.raises(UserError, match=f"{store.ids()[2]} is gone"):
        predict(Vanishing(broken / "test"), tmp_path / "stopped")
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]
    assert [path.name[:5] for path in (tmp_path / "stopped/shards").rglob("*-*.csv")] == ["00000"]
    assert predict(store, tmp_path / "stopped") == predict(store, tmp_path / "whole")
    for kind in KINDS:
        shown = _shown(tmp_path / "stopped", kind)
        assert len(shown) == 4 and shown == _shown(tmp_path / "whole", kind)


def test_any_other_error_names_the_image(
    model: TrainedModel, test_images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(work, "cut_out", fail)
    index, parameters = index_images(test_images), Inference(cutouts=True)
    shards, images = PredictionShards(DiskFolder(tmp_path / "shards")), PredictedImages(DiskFolder(tmp_path))
    with pytest.raises(MemoryError) as raised:
        predict_masks(model, index, test_images, shards, images, parameters, RECIPE, SOURCE)
    assert test_images.ids()[0] in raised.value.__notes__[0]
