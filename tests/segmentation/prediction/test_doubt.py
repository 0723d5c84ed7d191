import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.segmentation.prediction.doubt import doubts
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.studio import StudioSettings, render_view


@given(side=st.integers(8, 24), band=st.integers(0, 3))
def test_the_doubt_of_a_square_is_the_width_of_the_band_around_it(side: int, band: int) -> None:
    logits = torch.full((1, 48, 48), -5.0)
    logits[0, 4 : 4 + side + 2 * band, 4 : 4 + side + 2 * band] = -0.1
    logits[0, 4 + band : 4 + band + side, 4 + band : 4 + band + side] = 5.0
    corners = 4 * band**2 / (4 * side)
    assert doubts(logits).item() == pytest.approx(band + corners)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 4))
def test_the_doubt_belongs_to_one_image_and_its_mirror_image(seed: int, count: int) -> None:
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 4, (count, 6, 9)).astype(np.float32))
    together = doubts(logits)
    assert together.tolist() == [doubts(one[None]).item() for one in logits]
    assert torch.equal(doubts(logits.flip(2)), together)
    assert (doubts(logits - 100) == 0).all()  # empty masks of a network that is sure
    assert (doubts(torch.full_like(logits, -1)) > 10).all()  # and of one that is not


@given(st.floats(0.11, 0.89), st.floats(0.001, 0.09))
def test_probabilities_near_one_half_are_uncertain(uncertain: float, sure: float) -> None:
    def doubt(probability: float) -> float:
        return doubts(torch.full((1, 4, 4), math.log(probability / (1 - probability)))).item()

    assert doubt(uncertain) > 0
    assert doubt(sure) == doubt(1 - sure) == 0


def test_cars_doubts_a_car_that_is_upside_down() -> None:
    image, _ = render_view(StudioSettings(width=480, height=320), 0, 3)
    predictor = Predictor.from_checkpoint("cars", device="cpu", precision="float32")
    assert predictor.predict_one(image[::-1].copy()).doubt() > 5 * predictor.predict_one(image).doubt() > 0
