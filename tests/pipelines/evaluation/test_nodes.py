from pathlib import Path

import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.parameters import Inference
from carvana_kedro.pipelines.evaluation.nodes import score_model, select_unseen_images
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.images.competition import ImageStore
from models import RECIPE, blind, changed


@pytest.fixture
def trained(model: TrainedModel) -> TrainedModel:
    """A model that was trained on another source."""
    return changed(model, best_threshold=0.42, source="another", validation_cars=("a car",))


def test_a_model_is_scored_on_all_images_of_another_source(
    trained: TrainedModel, training_images: ImageStore
) -> None:
    index = select_unseen_images(training_images, trained)
    assert index["image"].tolist() == training_images.ids()
    parameters = Inference(threshold="auto", flip=True)
    scores, means, curve = score_model(trained, index, training_images, parameters, RECIPE)
    assert set(scores["image"]) == set(training_images.ids())
    assert means["threshold"] == 0.42
    assert means["images"] == len(scores) == 16
    assert curve["dice"][42] == pytest.approx(means["dice"], abs=1e-3)
    assert means["dice"] > 0
    _, averaged, _ = score_model(
        TrainedModel.join([trained, blind(trained), blind(trained)]),
        index,
        training_images,
        parameters,
        RECIPE,
    )
    assert averaged["dice"] == 0


def test_a_model_is_scored_on_the_validation_cars_of_its_own_source(
    trained: TrainedModel, training_images: ImageStore
) -> None:
    cars = sorted({image_id.partition("_")[0] for image_id in training_images.ids()})
    source = training_images.fingerprint()
    own = changed(trained, source=source, validation_cars=tuple(cars[-1:]))
    other = changed(own, validation_cars=tuple(cars[:-1]))
    index = select_unseen_images(training_images, own)
    assert index["car"].unique().tolist() == cars[-1:]
    score_model(own, index, training_images, Inference(), RECIPE)
    with pytest.raises(UserError, match="trained with another split"):
        score_model(other, index, training_images, Inference(), RECIPE)
    folds = TrainedModel.join([own, other])
    with pytest.raises(UserError, match="No image is left to score"):
        select_unseen_images(training_images, folds)


def test_images_with_problems_stop_the_run(trained: TrainedModel, broken: Path) -> None:
    store = ImageStore(broken / "train", broken / "train_masks")
    store.mask_path(store.ids()[0]).unlink()
    with pytest.raises(UserError, match="Correct or remove these files"):
        select_unseen_images(store, trained)
