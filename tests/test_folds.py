from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.errors import UserError
from carvana_kedro.folds import by_fold, split_folds
from carvana_kedro.segmentation.model import Member, TrainedModel


def _index(areas: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"image": f"{number:03}_{view:02}", "car": f"{number:03}", "mask_area": area}
            for number, area in enumerate(areas)
            for view in (1, 2)
        ]
    )


@given(
    areas=st.lists(st.floats(0.1, 0.4), min_size=2, max_size=30),
    folds=st.integers(2, 6),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_every_car_is_a_validation_car_of_exactly_one_fold(
    areas: list[float], folds: int, seed: int, data: st.DataObject
) -> None:
    index = _index(areas)
    cut = data.draw(st.integers(0, len(areas))) * 2
    sides = index[:cut], index[cut:]
    if len(areas) < folds:
        with pytest.raises(UserError, match=f"cannot be split into {folds} folds"):
            split_folds(*sides, folds, seed)
        return
    split = split_folds(*sides, folds, seed)
    validated = pd.concat([validation for _, validation in split])
    assert sorted(validated["image"]) == index["image"].tolist()
    for train, validation in split:
        assert sorted([*train["image"], *validation["image"]]) == index["image"].tolist()
        assert not {*train["car"]} & {*validation["car"]}
    counts = [validation["car"].nunique() for _, validation in split]
    assert max(counts) - min(counts) <= 1
    # The folds do not depend on the sides that ingestion has chosen.
    for (train, _), (same, _) in zip(split, split_folds(sides[1], sides[0], folds, seed), strict=True):
        assert train["image"].tolist() == same["image"].tolist()


def test_folds_have_similar_distributions_of_car_sizes() -> None:
    split = split_folds(_index([number / 100 for number in range(20)]), _index([])[:0], 5, 0)
    means = [validation["mask_area"].mean() for _, validation in split]
    assert max(means) - min(means) < 0.04
    assert {len(validation) for _, validation in split} == {8}


def test_without_folds_the_split_stays_the_same() -> None:
    index = _index([0.1, 0.2])
    ((train, validation),) = split_folds(index[:2], index[2:], 0, 0)
    assert (train["image"].tolist(), validation["image"].tolist()) == (
        ["000_01", "000_02"],
        ["001_01", "001_02"],
    )


def test_each_member_scores_its_own_validation_cars() -> None:
    index = _index([0.1, 0.2, 0.3])
    common = {"architecture": "unet_small", "width_multiplier": 1.0, "input_size": (32, 48), "threshold": 0.5}
    first = Member(**common, weights={}, run_id="first", validation_cars=("000",))
    second = replace(first, run_id="second", validation_cars=("001", "002"))
    pairs = by_fold(TrainedModel((first, second)), index)
    assert [(model.run_id, len(rows)) for model, rows in pairs] == [("first", 2), ("second", 4)]
    assert [model.run_id for model, _ in by_fold(TrainedModel((first, second)), index[:2])] == ["first"]
    for wrong in ((first,), (first, second, first), (second,)):
        with pytest.raises(UserError, match="folds do not fit these cars"):
            by_fold(TrainedModel(wrong), index)
