import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.errors import UserError
from carvana_kedro.folds import by_fold, split_folds


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
def test_every_car_is_unseen_by_one_fold(
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
    # It does not matter which of them ingestion has put on which side.
    for (train, _), (same, _) in zip(split, split_folds(sides[1], sides[0], folds, seed), strict=True):
        assert train["image"].tolist() == same["image"].tolist()


def test_folds_have_cars_of_all_sizes() -> None:
    split = split_folds(_index([number / 100 for number in range(20)]), _index([])[:0], 5, 0)
    means = [validation["mask_area"].mean() for _, validation in split]
    assert max(means) - min(means) < 0.04
    assert {len(validation) for _, validation in split} == {8}


def test_no_folds_are_the_two_sides() -> None:
    index = _index([0.1, 0.2])
    ((train, validation),) = split_folds(index[:2], index[2:], 0, 0)
    assert (train["image"].tolist(), validation["image"].tolist()) == (
        ["000_01", "000_02"],
        ["001_01", "001_02"],
    )


def test_members_get_what_they_have_not_seen() -> None:
    index = _index([0.1, 0.2, 0.3])
    members = [{"validation_cars": ["000"]}, {"validation_cars": ["001", "002"]}]
    pairs = by_fold({"members": members}, index)
    assert [
        (member is expected, len(rows)) for (member, rows), expected in zip(pairs, members, strict=True)
    ] == [
        (True, 2),
        (True, 4),
    ]
    assert [member for member, _ in by_fold({"members": members}, index[:2])] == members[:1]
    for wrong in ({"members": members[:1]}, {"members": [*members, members[0]]}, members[1]):
        with pytest.raises(UserError, match="not of folds of these cars"):
            by_fold(wrong, index)
