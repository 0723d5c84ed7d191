import time
from pathlib import Path

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import ModelTraining
from carvana_kedro.pipelines.model_training.nodes import (
    check_recipe,
    describe_run,
    evaluate_model,
    train_model,
)
from carvana_kedro.segmentation import metrics
from carvana_kedro.segmentation.predictor import Predictor
from carvana_kedro.stores.checkpoints import CheckpointStore
from carvana_kedro.stores.images import ImageStore

RECIPE = ModelTraining.model_validate(
    {
        "architecture": "unet_small",
        "width_multiplier": 0.25,
        "input_size": {"width": 48, "height": 32},
        "batch_size": 4,
        "epochs": 2,
        "optimizer": {"name": "adamw", "learning_rate": 0.003},
    }
)


@pytest.fixture
def indices(training_images: ImageStore) -> tuple[pd.DataFrame, pd.DataFrame]:
    index = index_images(training_images)
    return index[:12], index[12:]


def test_training_leaves_model_history_checkpoints_and_events(
    indices: tuple[pd.DataFrame, pd.DataFrame], training_images: ImageStore, tmp_path: Path
) -> None:
    checkpoints = CheckpointStore(tmp_path / "checkpoints")
    model, history = train_model(*indices, training_images, checkpoints, tmp_path / "events", RECIPE)
    assert history["epoch"].tolist() == [1, 2]
    assert model["architecture"] == "unet_small"
    run_id = model["run_id"]
    assert {path.name for path in (tmp_path / "checkpoints" / run_id).iterdir()} == {"best.pt", "last.pt"}
    assert list((tmp_path / "events" / run_id).glob("events.*"))
    best = int(history["val_dice_coeff"].to_numpy().argmax()) + 1
    assert len(checkpoints.load(run_id, "best")["history"]) == best

    scores, means = evaluate_model(model, indices[1], training_images, RECIPE)
    assert scores["dice"].is_monotonic_increasing
    assert set(scores["image"]) == set(indices[1]["image"])
    first = scores.iloc[0]
    mask = Predictor.from_model(model)(training_images.read_image(first["image"]))
    target = training_images.read_mask(first["image"])
    assert mask.shape == target.shape == (160, 240)
    assert first["dice"] == pytest.approx(metrics.dice(mask, target), abs=1e-6)
    assert means["dice"] == pytest.approx(scores["dice"].mean())
    assert means["lowest_dice"] == scores["dice"].min()

    with pytest.raises(UserError, match="trained with another split"):
        evaluate_model(model, indices[0], training_images, RECIPE)

    manifest = describe_run(model, indices[0], history, means, "small", RECIPE)
    assert manifest["run_id"] == run_id
    assert manifest["source"] == training_images.fingerprint()
    assert manifest["parameters"]["epochs"] == 2
    assert manifest["train_cars"] == indices[0]["car"].unique().tolist()
    assert manifest["validation_cars"] == indices[1]["car"].unique().tolist()
    assert {"python", "torch", "carvana_kedro"} <= set(manifest["versions"])


def test_a_second_run_takes_the_place_of_the_first_in_tensorboard(
    indices: tuple[pd.DataFrame, pd.DataFrame], training_images: ImageStore, tmp_path: Path
) -> None:
    for _ in range(2):
        model, history = train_model(*indices, training_images, CheckpointStore(tmp_path), tmp_path, RECIPE)
        time.sleep(1.1)  # TensorBoard puts files in order by the second they were begun in
    events = EventAccumulator(str(tmp_path / model["run_id"]))
    events.Reload()
    scalars = events.Scalars("data/train_loss")
    assert [scalar.step for scalar in scalars] == [1, 2]
    assert [scalar.value for scalar in scalars] == pytest.approx(history["train_loss"].tolist())
    assert len(events.Images("validation/image_1")) == 2


def test_another_run_gets_a_folder_of_its_own(
    indices: tuple[pd.DataFrame, pd.DataFrame], training_images: ImageStore, tmp_path: Path
) -> None:
    checkpoints = CheckpointStore(tmp_path / "checkpoints")
    ids = [
        train_model(*indices, training_images, checkpoints, tmp_path, recipe)[0]["run_id"]
        for recipe in (RECIPE, RECIPE, RECIPE.model_copy(update={"seed": 1}))
    ]
    assert ids[0] == ids[1] != ids[2]
    assert {path.name for path in checkpoints.folder.iterdir()} == set(ids)


def test_sizes_that_do_not_fit_the_network_are_told(
    indices: tuple[pd.DataFrame, pd.DataFrame], training_images: ImageStore, tmp_path: Path
) -> None:
    recipe = RECIPE.model_copy(update={"architecture": "unet_original"})
    with pytest.raises(UserError, match="32"):
        train_model(*indices, training_images, CheckpointStore(tmp_path), tmp_path, recipe)
    with pytest.raises(UserError, match="32"):
        check_recipe(recipe)


def test_an_index_of_another_source_is_refused(
    indices: tuple[pd.DataFrame, pd.DataFrame], test_images: ImageStore, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="made from other files"):
        train_model(*indices, test_images, CheckpointStore(tmp_path), tmp_path, RECIPE)
