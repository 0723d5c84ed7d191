"""KaggleSource against a stand-in for Kaggle: what it fetches, what it does not fetch, and damaged archives."""

import io
import json
import shutil
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.stores.competition import Side
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.kaggle.competition import KaggleCompetition
from carvana_kedro.stores.kaggle.download import fetched_digest
from carvana_kedro.stores.kaggle.source import KaggleSource
from standin_kaggle import COMPETITION, KEY, USERNAME, StandInKaggle


@pytest.fixture
def source(kaggle: StandInKaggle, tmp_path: Path) -> KaggleSource:
    return KaggleSource(tmp_path / "raw", KaggleCompetition(COMPETITION))


def _training(source: KaggleSource) -> ImageStore:
    store = source.open_side("training")
    assert isinstance(store, ImageStore)
    return store


def _error(source: KaggleSource) -> str:
    with pytest.raises(UserError) as raised:
        source.open_side("training")
    return str(raised.value)


def test_training_fetches_no_files_of_the_test_side(
    source: KaggleSource, kaggle: StandInKaggle, training_images: ImageStore
) -> None:
    images = _training(source)
    assert set(kaggle.sent) == {"train_hq.zip", "train_masks.zip", "train_masks.csv.zip"}
    assert images.ids() == training_images.ids()
    assert all(record.problems == [] for record in images.examine())
    first = images.ids()[0]
    assert (images.read_image(first) == training_images.read_image(first)).all()


def test_inference_fetches_only_files_of_the_test_side(
    source: KaggleSource, kaggle: StandInKaggle, test_images: ImageStore
) -> None:
    images = replace(source, quality="standard").open_side("test")
    assert set(kaggle.sent) == {"test.zip", "sample_submission.csv.zip"}
    assert images.expected == test_images.expected
    assert all(record.problems == [] for record in images.examine())


def test_the_sample_submission_fetches_only_its_table(
    source: KaggleSource, kaggle: StandInKaggle, test_images: ImageStore
) -> None:
    assert source.open_side("sample_submission") == list(test_images.expected or ())
    assert set(kaggle.sent) == {"sample_submission.csv.zip"}


def test_the_solution_is_empty(source: KaggleSource, kaggle: StandInKaggle) -> None:
    assert source.open_side("solution") == []
    assert kaggle.requests == []


def test_a_second_run_sends_no_request(
    source: KaggleSource, kaggle: StandInKaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: tuple[Side, ...] = ("training", "test", "sample_submission")
    for side in sides:
        source.open_side(side)
    asked = len(kaggle.requests)
    # It does not even look for credentials.
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.delenv("KAGGLE_USERNAME")
    again = replace(source, competition=KaggleCompetition(COMPETITION))
    for side in sides:
        again.open_side(side)
    assert len(kaggle.requests) == asked


@pytest.mark.parametrize("keep", [True, False])
def test_archives_of_images_are_kept_on_request(
    source: KaggleSource, tmp_path: Path, on_kaggle: Path, keep: bool
) -> None:
    images = _training(replace(source, keep_archives=keep))
    archive = tmp_path / "raw/train_hq.zip"
    assert archive.is_file() == keep
    digest = sha256((on_kaggle / "train_hq.zip").read_bytes()).hexdigest()
    assert json.loads((images.images / "manifest.json").read_text())["sha256"] == digest
    assert (fetched_digest(archive) == digest) == keep


def test_archives_of_the_user_are_used_and_kept(
    source: KaggleSource, kaggle: StandInKaggle, tmp_path: Path, on_kaggle: Path
) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("train_hq.zip", "train_masks.zip", "train_masks.csv.zip"):
        shutil.copy(on_kaggle / name, tmp_path / "raw")
    assert len(_training(source).ids()) == 16
    assert kaggle.requests == []
    assert (tmp_path / "raw/train_hq.zip").is_file()


def test_an_archive_that_the_user_adds_later_is_kept(
    source: KaggleSource, tmp_path: Path, on_kaggle: Path
) -> None:
    _training(source)
    shutil.copy(on_kaggle / "train_hq.zip", tmp_path / "raw")
    _training(source)
    assert (tmp_path / "raw/train_hq.zip").is_file()


def test_a_damaged_archive_of_the_user_is_not_deleted(
    source: KaggleSource, tmp_path: Path, on_kaggle: Path
) -> None:
    (tmp_path / "raw").mkdir()
    content = (on_kaggle / "train_hq.zip").read_bytes()
    (tmp_path / "raw/train_hq.zip").write_bytes(content[:5000])
    assert "If you remove it, the next run downloads it." in _error(source)
    assert (tmp_path / "raw/train_hq.zip").stat().st_size == 5000


def test_a_folder_with_missing_files_is_completed(source: KaggleSource) -> None:
    images = _training(source)
    first, second, *_ = images.ids()
    images.image_path(first).unlink()
    kept = images.image_path(second).stat().st_ino
    again = _training(source)
    assert again.fingerprint() == images.fingerprint() == _training(source).fingerprint()
    assert len(again.ids()) == 16
    assert again.image_path(second).stat().st_ino == kept


def _damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(100) + content[middle + 100 :]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train_hq.zip", _damaged),
        ("train_hq.zip", lambda content: content[: len(content) // 2]),
        ("train_masks.zip", lambda content: b"<html>please sign in</html>"),
        ("train_masks.csv.zip", _damaged),
    ],
)
def test_a_damaged_archive_is_fetched_once_more(
    source: KaggleSource, kaggle: StandInKaggle, tmp_path: Path, on_kaggle: Path, name: str, damage: object
) -> None:
    whole = (on_kaggle / name).read_bytes()
    kaggle.content[name] = damage(whole)  # type: ignore[operator]
    message = _error(source)
    assert f"{name} was damaged after both downloads from Kaggle, and was deleted" in message
    assert not (tmp_path / "raw" / name).exists()
    assert kaggle.asked(name) == 2
    assert kaggle.sent[name] == 2 * len(kaggle.content[name])
    assert not (tmp_path / "raw/unpacked" / name.removesuffix(".zip")).exists()

    # The second copy is complete: no part of the damaged one is left.
    shutil.rmtree(tmp_path / "raw")
    kaggle.requests.clear()
    del kaggle.content[name]
    read, served = kaggle.read, []

    def first_damaged(asked: str) -> bytes:
        content = read(asked)
        if asked == name and "DownloadDataFile" in kaggle.requests[-2:] and len(served) < 1:
            served.append(asked)
            return damage(content)  # type: ignore[no-any-return, operator]
        return content

    kaggle.read = first_damaged  # type: ignore[method-assign]
    assert len(_training(source).ids()) == 16
    assert kaggle.asked(name) == 2


def test_an_unsafe_archive_is_rejected_and_not_fetched_again(
    source: KaggleSource, kaggle: StandInKaggle, tmp_path: Path
) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("train_hq/../../../evil.jpg", b"1")
    kaggle.content["train_hq.zip"] = content.getvalue()
    message = _error(source)
    assert "train_hq.zip holds 'train_hq/../../../evil.jpg'" in message
    assert kaggle.asked("train_hq.zip") == 1
    assert not list(tmp_path.rglob("evil*"))


def test_free_space_is_checked_before_the_first_byte(
    source: KaggleSource, kaggle: StandInKaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "carvana_kedro.stores.kaggle.competition.KaggleCompetition.files",
        lambda _: {"train_hq.zip": 10**18, "train_masks.zip": 1, "train_masks.csv.zip": 1},
    )
    message = _error(source)
    assert message.startswith(
        "Downloading and unpacking train_hq.zip, train_masks.zip, train_masks.csv.zip needs 2000000.0 TB, but only "
    )
    assert "is free on the disk of" in message
    assert not kaggle.sent


def test_a_missing_file_of_the_competition_is_an_error(
    source: KaggleSource, kaggle: StandInKaggle, tmp_path: Path
) -> None:
    kaggle.folder = tmp_path
    kaggle.content = {"train.zip": b"1"}
    assert "has no file train_hq.zip. Available: train.zip." in _error(source)


def test_secrets_are_not_shown_or_written(kaggle: StandInKaggle, tmp_path: Path) -> None:
    competition = KaggleCompetition(COMPETITION, {"username": USERNAME, "key": KEY})
    source = KaggleSource(tmp_path / "raw", competition)
    assert KEY not in repr(source) + str(source)
    source.open_side("training")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in written)
