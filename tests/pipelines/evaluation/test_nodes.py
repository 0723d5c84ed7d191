from pathlib import Path
from typing import Any

import pytest
import torch

from carvana_kedro.errors import UserError
from carvana_kedro.parameters import Inference
from carvana_kedro.pipelines.evaluation.nodes import score_model, select_unseen_images
from carvana_kedro.segmentation.architectures import build
from carvana_kedro.stores.images import ImageStore


def _model(source: str, validation_cars: list[str]) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "architecture": "unet_small",
        "width_multiplier": 0.25,
        "input_size": [32, 48],
        "weights": build("unet_small", width_multiplier=0.25).state_dict(),
        "threshold": 0.5,
        "best_threshold": 0.42,
        "run_id": "run",
        "source": source,
        "validation_cars": validation_cars,
    }


def test_a_model_is_scored_on_all_images_of_another_source(training_images: ImageStore) -> None:
    model = _model("another", ["a car"])
    index = select_unseen_images(training_images, model)
    assert index["image"].tolist() == training_images.ids()
    parameters = Inference(threshold="auto", flip=True)
    scores, means, curve = score_model(model, index, training_images, parameters)
    assert set(scores["image"]) == set(training_images.ids())
    assert means["threshold"] == 0.42
    assert means["images"] == len(scores) == 16
    assert curve["dice"][42] == pytest.approx(means["dice"], abs=1e-3)
    blind = _model("another", [])
    blind["weights"]["head.bias"] -= 100
    assert means["dice"] > 0
    _, averaged, _ = score_model({"members": [model, blind, blind]}, index, training_images, parameters)
    assert averaged["dice"] == 0


def test_of_its_own_source_it_is_scored_on_what_it_has_not_seen(training_images: ImageStore) -> None:
    cars = sorted({image_id.partition("_")[0] for image_id in training_images.ids()})
    source = training_images.fingerprint()
    model = _model(source, cars[-1:])
    index = select_unseen_images(training_images, model)
    assert index["car"].unique().tolist() == cars[-1:]
    score_model(model, index, training_images, Inference())
    folds = {"members": [model, _model(source, cars[:-1])]}
    with pytest.raises(UserError, match="none of these models has seen"):
        select_unseen_images(training_images, folds)


def test_images_with_problems_stop(broken: Path) -> None:
    store = ImageStore(broken / "train", broken / "train_masks")
    store.mask_path(store.ids()[0]).unlink()
    with pytest.raises(UserError, match="Put these right or take them away"):
        select_unseen_images(store, _model("another", []))
