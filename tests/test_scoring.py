from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from carvana_kedro import scoring
from carvana_kedro.errors import UserError
from carvana_kedro.image_index import index_images
from carvana_kedro.parameters import Inference
from carvana_kedro.scoring import score_images
from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.metrics import mask_scores
from carvana_kedro.segmentation.metrics.threshold_curve import ThresholdCurve
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.segmentation.prediction.postprocessing import postprocess
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores import processes
from carvana_kedro.stores.images.competition import ImageStore

PARAMETERS = Inference(threshold="auto", keep_largest=True, fill_holes=True, batch_size=3)


@pytest.fixture
def model() -> TrainedModel:
    """An untrained model that has seen no image."""
    torch.manual_seed(0)
    content = {
        "architecture": "unet_small",
        "width_multiplier": 0.25,
        "input_size": [32, 48],
        "weights": build_network("unet_small", width_multiplier=0.25).state_dict(),
        "threshold": 0.5,
        "best_threshold": 0.47,
        "source": "another",
        "validation_cars": ["a car"],
        "run_id": "run",
    }
    return TrainedModel.from_dict(content)


@pytest.mark.parametrize("cores", [1, 7])
def test_scores_from_threads_are_those_of_one_image_after_the_other(
    model: TrainedModel, training_images: ImageStore, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(processes, "usable_cores", lambda: cores)
    index = index_images(training_images)
    scores, summary, thresholds = score_images([(model, index)], training_images, PARAMETERS, run_id="run")
    predictor, curve, rows = Predictor.from_model(model), ThresholdCurve(), []
    for prediction in predictor.predict(training_images, index["image"].tolist(), batch_size=3):
        target = training_images.read_mask(prediction.image_id)
        curve.add(prediction.enlarged()[None], torch.from_numpy(target)[None])
        mask = postprocess(prediction.mask(0.47), largest=True, filled=True)
        rows.append({"image": prediction.image_id, **mask_scores.scores(mask, target)})
    expected = pd.DataFrame(rows).sort_values("dice", kind="stable")
    pd.testing.assert_frame_equal(scores.drop(columns=["car", "run_id"]), expected, check_exact=True)
    assert summary["dice"] == expected["dice"].mean()
    assert np.array_equal(thresholds["dice"], curve.dice())
    assert np.array_equal(thresholds["positive"], curve.positive.sum(0))
    assert np.array_equal(thresholds["true_positive"], curve.true_positive.sum(0))


def test_an_error_while_scoring_names_the_image(model: TrainedModel, broken: Path) -> None:
    store = ImageStore(broken / "train", broken / "train_masks")
    image_id = store.ids()[9]
    small = Image.new("P", (5, 4))
    small.putpalette([0, 0, 0, 255, 255, 255])
    small.save(store.mask_path(image_id))
    index = index_images(store)
    with pytest.raises(UserError, match=f"{image_id} cannot be scored: "):
        list(scoring._score_model(model, index, store, PARAMETERS, ThresholdCurve(), ()))
