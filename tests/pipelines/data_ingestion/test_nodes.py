import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carvana_kedro.errors import UserError
from carvana_kedro.parameters import DataIngestion
from carvana_kedro.pipelines.data_ingestion.nodes import split_cars


def _index(cars: int, views: int = 4) -> pd.DataFrame:
    rows = [
        {
            "image": f"{car:012x}_{view:02d}",
            "car": f"{car:012x}",
            "mask_area": 0.1 + car / 1000,
            "problems": "",
        }
        for car in range(cars)
        for view in range(1, views + 1)
    ]
    return pd.DataFrame(rows)


@given(
    cars=st.integers(2, 60),
    validation_fraction=st.floats(0.01, 0.99),
    sample_fraction=st.floats(0.01, 1),
    seed=st.integers(0, 1000),
)
def test_all_images_of_a_car_are_on_one_side(
    cars: int, validation_fraction: float, sample_fraction: float, seed: int
) -> None:
    parameters = DataIngestion(
        seed=seed, validation_fraction=validation_fraction, sample_fraction=sample_fraction
    )
    train, validation, _ = split_cars(_index(cars), parameters)
    used = max(2, round(sample_fraction * cars))
    assert not set(train["car"]) & set(validation["car"])
    assert train["car"].nunique() + validation["car"].nunique() == used
    assert len(train) + len(validation) == 4 * used
    assert validation["car"].nunique() == min(max(1, round(validation_fraction * used)), used - 1)


def test_the_seed_decides_the_split() -> None:
    splits = [split_cars(_index(20), DataIngestion(seed=seed))[1]["car"].tolist() for seed in (1, 1, 2)]
    assert splits[0] == splits[1] != splits[2]


def test_the_order_of_the_rows_does_not_matter() -> None:
    shuffled = _index(20).sample(frac=1, random_state=0)
    expected, found = (split_cars(index, DataIngestion())[1] for index in (_index(20), shuffled))
    assert set(expected["image"]) == set(found["image"])


def test_validation_is_stratified_by_mask_area() -> None:
    # Of every five cars of similar size one is chosen.
    _, validation, parameters = split_cars(_index(20), DataIngestion(validation_fraction=0.2))
    assert parameters["validation_fraction"] == 0.2
    drawn = sorted(int(car, 16) // 5 for car in validation["car"].unique())
    assert drawn == [0, 1, 2, 3]


def test_problems_stop_the_split_or_are_skipped() -> None:
    index = _index(5)
    index.loc[3, "problems"] = "the mask is missing"
    with pytest.raises(UserError, match=r"000000000000_04: the mask is missing[\s\S]*on_problem=skip"):
        split_cars(index, DataIngestion())
    train, validation, _ = split_cars(index, DataIngestion(on_problem="skip"))
    assert len(train) + len(validation) == 19


def test_one_car_cannot_be_split() -> None:
    with pytest.raises(UserError, match="at least 2 cars"):
        split_cars(_index(1), DataIngestion())


@pytest.mark.parametrize(("area", "what"), [(0.0, "empty"), (1.0, "full")])
def test_masks_to_train_on_that_are_all_empty_or_full_stop_the_run(area: float, what: str) -> None:
    index = _index(5)
    index["mask_area"] = area
    with pytest.raises(
        UserError, match=rf"of all 16 images to train on are {what}: .*folder\.mask_background"
    ):
        split_cars(index, DataIngestion())
    # Images with problems do not count.
    index.loc[3, ["mask_area", "problems"]] = 0.5, "a duplicate"
    with pytest.raises(UserError, match=f"to train on are {what}"):
        split_cars(index, DataIngestion(on_problem="skip"))


def test_empty_masks_of_all_validation_images_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    index = _index(2)
    index.loc[:3, "mask_area"] = 0.0  # of the first car, whose masks are the smallest anyway
    warned = {}
    for seed in range(8):
        caplog.clear()
        try:
            split_cars(index, DataIngestion(seed=seed))
        except UserError:  # the first car is the one to train on
            warned["train"] = True
            continue
        warned["validate"] = "the scores say nothing" in caplog.text
    assert warned == {"train": True, "validate": True}
