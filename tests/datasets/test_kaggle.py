from pathlib import Path

import pytest
from kedro.io import DatasetError

from carvana_kedro.datasets import KaggleCompetitionDataset, KaggleDataset
from carvana_kedro.errors import UserError
from standin_kaggle import COMPETITION, KEY, USERNAME, StandInKaggle


def test_a_side_is_fetched_and_opened(kaggle: StandInKaggle, tmp_path: Path) -> None:
    dataset = KaggleDataset(str(tmp_path / "raw"), "test", COMPETITION, "standard", keep_archives=True)
    assert dataset.exists()
    assert len(dataset.load().ids()) == 4
    assert set(kaggle.sent) == {"test.zip", "sample_submission.csv.zip"}
    assert (tmp_path / "raw" / "test.zip").is_file()
    assert dataset._describe() == {"filepath": str(tmp_path / "raw"), "side": "test"}


def test_errors_of_the_source_are_passed_on(kaggle: StandInKaggle, tmp_path: Path) -> None:
    kaggle.rules_accepted = False
    with pytest.raises(DatasetError) as raised:
        KaggleDataset(str(tmp_path), "training", COMPETITION).load()
    assert isinstance(raised.value.__cause__, UserError)


def test_secrets_are_not_shown(kaggle: StandInKaggle, tmp_path: Path) -> None:
    credentials = {"username": USERNAME, "key": KEY}
    for dataset in (
        KaggleDataset(str(tmp_path), "training", COMPETITION, credentials=credentials),
        KaggleCompetitionDataset(COMPETITION, credentials),
    ):
        assert KEY not in repr(dataset) + str(dataset) + str(dataset._describe())


def test_the_competition_is_loaded_without_a_request(kaggle: StandInKaggle) -> None:
    assert KaggleCompetitionDataset(COMPETITION).load().name == COMPETITION
    assert kaggle.requests == []


def test_a_preview_sends_no_request(kaggle: StandInKaggle, tmp_path: Path) -> None:
    dataset = KaggleDataset(str(tmp_path / "raw"), "test", COMPETITION, "standard")
    assert dataset.preview() is None
    assert kaggle.requests == []
    dataset.load()
    sent = len(kaggle.requests)
    assert dataset.preview()
    assert KaggleDataset(str(tmp_path / "raw"), "test", COMPETITION, "hq").preview() is None
    assert len(kaggle.requests) == sent
