from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carvana_kedro.datasets.source_description import SourceDescription
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import Inference
from carvana_kedro.pipelines.inference.nodes import (
    predict_masks,
    select_test_images,
    summarize_predictions,
    write_submission,
)
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.predictions import PredictedImages, PredictionShards
from models import RECIPE, changed

NO_IMAGES = PredictedImages(Path("nowhere"))
SOURCE = SourceDescription(name="mine")


def test_every_test_image_has_a_row_in_the_submission(
    model: TrainedModel, test_images: ImageStore, tmp_path: Path
) -> None:
    shards = PredictionShards(tmp_path)
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
    index, shards = index_images(test_images), PredictionShards(tmp_path)
    first, second = (
        predict_masks(
            model, index, test_images, shards, NO_IMAGES, Inference(threshold=threshold), RECIPE, SOURCE
        )
        for threshold in (0.5, 0.6)
    )
    assert not set(first["shards"]) & set(second["shards"])


def test_a_test_image_with_a_problem_stops_the_run(broken: Path, test_images: ImageStore) -> None:
    store = ImageStore(broken / "test", expected=test_images.expected)
    missing = store.ids()[1]
    store.image_path(missing).unlink()
    with pytest.raises(UserError, match=rf"{missing}: the image is missing\nEvery test image needs a mask"):
        select_test_images(index_images(store), Inference())


def test_test_images_may_have_any_size(broken: Path) -> None:
    store = ImageStore(broken / "test")
    Image.new("RGB", (50, 40)).save(store.image_path(store.ids()[0]))
    assert select_test_images(index_images(store), Inference())["image"].tolist() == store.ids()


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
    index = select_test_images(index_images(store), parameters)
    assert f"2 masks will be empty:\n  {missing}: the image is missing" in caplog.text
    predictions = predict_masks(
        model, index, store, PredictionShards(tmp_path), NO_IMAGES, parameters, RECIPE, SOURCE
    )
    rows = dict(write_submission(predictions, PredictionShards(tmp_path)))
    assert list(rows) == list(test_images.expected or ())
    assert [image_id for image_id, runs in rows.items() if not runs] == [missing, damaged]
    for image_id in (missing, damaged):
        assert f"The mask of {image_id} is empty: " in caplog.text


def test_the_threshold_auto_is_the_best_one_of_the_validation(
    model: TrainedModel, test_images: ImageStore, tmp_path: Path
) -> None:
    index, shards = index_images(test_images), PredictionShards(tmp_path)
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
    index, shards = index_images(test_images), PredictionShards(tmp_path)
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
    assert "2 of 2 shards already exist" in caplog.text
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
    index, shards = index_images(test_images), PredictionShards(tmp_path / "shards")
    images = PredictedImages(tmp_path)
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
    shards, images = PredictionShards(tmp_path / "shards"), PredictedImages(tmp_path)
    parameters = Inference(on_bad_image="empty", masks=True, shard_size=3, threshold=0.48)
    index = select_test_images(index_images(store), parameters)
    predictions = predict_masks(model, index, store, shards, images, parameters, RECIPE, SOURCE)
    with caplog.at_level("INFO"):
        summary = summarize_predictions(predictions, index, shards, images, parameters, SOURCE).set_index(
            "image"
        )
    assert sorted(summary.index) == sorted([missing, *others])
    assert summary.loc[missing, ["covered", "runs", "problems"]].tolist() == [0, 0, "the image is missing"]
    for image_id in others:
        mask = np.array(Image.open(tmp_path / "masks" / f"{image_id}.png")) > 0
        width, height, covered, runs, problems = summary.loc[image_id]
        assert (height, width) == mask.shape
        assert (covered, runs) == (pytest.approx(mask.mean()), run_lengths.find_edges(mask).size / 2)
        assert not problems
    shares = summary.loc[others, "covered"]
    assert (
        f"from {shares.min():.1%} ({shares.idxmin()}) to {shares.max():.1%} ({shares.idxmax()})"
        in caplog.text
    )
    assert "4 images\n  empty masks: 1\n  other masks cover" in caplog.text
    assert f"masks are in {tmp_path}" in caplog.text
    assert caplog.text.count("4 images") == 1


def test_onnx_runtime_predicts_the_same_masks_into_other_shards(
    model: TrainedModel, test_images: ImageStore, tmp_path: Path
) -> None:
    index, shards = index_images(test_images), PredictionShards(tmp_path)
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
