import copy
from pathlib import Path
from typing import Any

import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.parameters import Inference
from carvana_kedro.pipelines.evaluation.nodes import score_model, select_unseen_images
from carvana_kedro.stores.images.competition import ImageStore


@pytest.fixture
def trained(model: dict[str, Any]) -> dict[str, Any]:
    """A model of another source."""
    return {**model, "best_threshold": 0.42, "source": "another", "validation_cars": ["a car"]}


def test_a_model_is_scored_on_all_images_of_another_source(
    trained: dict[str, Any], training_images: ImageStore
) -> None:
    index = select_unseen_images(training_images, trained)
    assert index["image"].tolist() == training_images.ids()
    parameters = Inference(threshold="auto", flip=True)
    scores, means, curve = score_model(trained, index, training_images, parameters)
    assert set(scores["image"]) == set(training_images.ids())
    assert means["threshold"] == 0.42
    assert means["images"] == len(scores) == 16
    assert curve["dice"][42] == pytest.approx(means["dice"], abs=1e-3)
    assert means["dice"] > 0
    blind = copy.deepcopy(trained)
    blind["weights"]["head.bias"] -= 100
    _, averaged, _ = score_model({"members": [trained, blind, blind]}, index, training_images, parameters)
    assert averaged["dice"] == 0


def test_of_its_own_source_it_is_scored_on_what_it_has_not_seen(
    trained: dict[str, Any], training_images: ImageStore
) -> None:
    cars = sorted({image_id.partition("_")[0] for image_id in training_images.ids()})
    source = training_images.fingerprint()
    own = {**trained, "source": source, "validation_cars": cars[-1:]}
    index = select_unseen_images(training_images, own)
    assert index["car"].unique().tolist() == cars[-1:]
    score_model(own, index, training_images, Inference())
    with pytest.raises(UserError, match="trained with another split"):
        score_model({**own, "validation_cars": cars[:-1]}, index, training_images, Inference())
    folds = {"members": [own, {**own, "validation_cars": cars[:-1]}]}
    with pytest.raises(UserError, match="none of these models has seen"):
        select_unseen_images(training_images, folds)


def test_images_with_problems_stop(trained: dict[str, Any], broken: Path) -> None:
    store = ImageStore(broken / "train", broken / "train_masks")
    store.mask_path(store.ids()[0]).unlink()
    with pytest.raises(UserError, match="Put these right or take them away"):
        select_unseen_images(store, trained)
