"""The competition on Kaggle as a source: what is fetched, what is not, and what is done about bad archives."""

import io
import json
import shutil
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from kedro.io import DatasetError

from carvana_kedro.datasets import KaggleDataset
from carvana_kedro.datasets.competition import Side
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.kaggle.download import digest_of
from standin_kaggle import COMPETITION, KEY, StandInKaggle


def _side(tmp_path: Path, side: Side, **options: object) -> KaggleDataset:
    return KaggleDataset(str(tmp_path / "raw"), side, COMPETITION, **options)  # type: ignore[arg-type]


def _told(dataset: KaggleDataset) -> str:
    with pytest.raises(DatasetError) as told:
        dataset.load()
    return str(told.value.__cause__)


def test_training_fetches_nothing_of_the_test_side(
    kaggle: StandInKaggle, tmp_path: Path, training_images: ImageStore
) -> None:
    images = _side(tmp_path, "training").load()
    assert set(kaggle.sent) == {"train_hq.zip", "train_masks.zip", "train_masks.csv.zip"}
    assert images.ids() == training_images.ids()
    assert all(record.problems == [] for record in images.examine())
    first = images.ids()[0]
    assert (images.read_image(first) == training_images.read_image(first)).all()


def test_inference_fetches_the_test_side_alone(
    kaggle: StandInKaggle, tmp_path: Path, test_images: ImageStore
) -> None:
    images = _side(tmp_path, "test", quality="standard").load()
    assert set(kaggle.sent) == {"test.zip", "sample_submission.csv.zip"}
    assert images.expected == test_images.expected
    assert all(record.problems == [] for record in images.examine())


def test_the_ids_of_a_submission_take_its_table_alone(
    kaggle: StandInKaggle, tmp_path: Path, test_images: ImageStore
) -> None:
    assert _side(tmp_path, "sample_submission").load() == list(test_images.expected or ())
    assert set(kaggle.sent) == {"sample_submission.csv.zip"}


def test_the_solution_is_kaggles_secret(kaggle: StandInKaggle, tmp_path: Path) -> None:
    assert _side(tmp_path, "solution").load() == []
    assert kaggle.requests == []


def test_a_second_run_asks_for_nothing(
    kaggle: StandInKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: tuple[Side, ...] = ("training", "test", "sample_submission")
    for side in sides:
        _side(tmp_path, side).load()
    asked = len(kaggle.requests)
    # Without credentials, even.
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.delenv("KAGGLE_USERNAME")
    for side in sides:
        _side(tmp_path, side).load()
    assert len(kaggle.requests) == asked


@pytest.mark.parametrize("keep", [True, False])
def test_archives_of_images_stay_if_they_are_to_be_kept(
    kaggle: StandInKaggle, tmp_path: Path, on_kaggle: Path, keep: bool
) -> None:
    images = _side(tmp_path, "training", keep_archives=keep).load()
    archive = tmp_path / "raw/train_hq.zip"
    assert archive.is_file() == keep
    digest = sha256((on_kaggle / "train_hq.zip").read_bytes()).hexdigest()
    assert json.loads((images.images / "manifest.json").read_text())["sha256"] == digest
    assert (digest_of(archive) == digest) == keep


def test_archives_that_the_user_has_brought_are_used_and_stay(
    kaggle: StandInKaggle, tmp_path: Path, on_kaggle: Path
) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("train_hq.zip", "train_masks.zip", "train_masks.csv.zip"):
        shutil.copy(on_kaggle / name, tmp_path / "raw")
    assert len(_side(tmp_path, "training").load().ids()) == 16
    assert kaggle.requests == []
    assert (tmp_path / "raw/train_hq.zip").is_file()


def test_an_archive_that_the_user_brings_later_stays_too(
    kaggle: StandInKaggle, tmp_path: Path, on_kaggle: Path
) -> None:
    _side(tmp_path, "training").load()
    shutil.copy(on_kaggle / "train_hq.zip", tmp_path / "raw")
    _side(tmp_path, "training").load()
    assert (tmp_path / "raw/train_hq.zip").is_file()


def test_a_damaged_archive_of_the_users_is_not_deleted(
    kaggle: StandInKaggle, tmp_path: Path, on_kaggle: Path
) -> None:
    (tmp_path / "raw").mkdir()
    content = (on_kaggle / "train_hq.zip").read_bytes()
    (tmp_path / "raw/train_hq.zip").write_bytes(content[:5000])
    assert "Or take it away: then it is fetched from Kaggle." in _told(_side(tmp_path, "training"))
    assert (tmp_path / "raw/train_hq.zip").stat().st_size == 5000


def test_a_folder_that_lost_files_is_fetched_and_made_whole(kaggle: StandInKaggle, tmp_path: Path) -> None:
    images = _side(tmp_path, "training").load()
    first, second, *_ = images.ids()
    images.image_path(first).unlink()
    kept = images.image_path(second).stat().st_ino
    again = _side(tmp_path, "training").load()
    assert again.fingerprint() == images.fingerprint() == _side(tmp_path, "training").load().fingerprint()
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
def test_an_archive_that_comes_damaged_is_fetched_again_once(
    kaggle: StandInKaggle, tmp_path: Path, on_kaggle: Path, name: str, damage: object
) -> None:
    whole = (on_kaggle / name).read_bytes()
    kaggle.content[name] = damage(whole)  # type: ignore[operator]
    told = _told(_side(tmp_path, "training"))
    assert f"{name} has come damaged from Kaggle, twice, and is deleted" in told
    assert not (tmp_path / "raw" / name).exists()
    assert kaggle.asked(name) == 2
    assert kaggle.sent[name] == 2 * len(kaggle.content[name])
    assert not (tmp_path / "raw/unpacked" / name.removesuffix(".zip")).exists()

    # The second one is whole: nothing of the first is left.
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
    assert len(_side(tmp_path, "training").load().ids()) == 16
    assert kaggle.asked(name) == 2


def test_a_hostile_archive_is_refused_and_not_fetched_again(kaggle: StandInKaggle, tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("train_hq/../../../evil.jpg", b"1")
    kaggle.content["train_hq.zip"] = content.getvalue()
    told = _told(_side(tmp_path, "training"))
    assert "train_hq.zip holds 'train_hq/../../../evil.jpg'" in told
    assert kaggle.asked("train_hq.zip") == 1
    assert not list(tmp_path.rglob("evil*"))


def test_room_is_looked_for_before_anything_is_fetched(
    kaggle: StandInKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "carvana_kedro.stores.kaggle.competition.KaggleCompetition.files",
        lambda _: {"train_hq.zip": 10**18, "train_masks.zip": 1, "train_masks.csv.zip": 1},
    )
    told = _told(_side(tmp_path, "training"))
    assert told.startswith(
        "Fetching and unpacking train_hq.zip, train_masks.zip, train_masks.csv.zip needs 2000000.0 TB, but only "
    )
    assert "is free on the disk of" in told
    assert not kaggle.sent


def test_a_file_that_the_competition_lacks_is_told(kaggle: StandInKaggle, tmp_path: Path) -> None:
    kaggle.folder = tmp_path
    kaggle.content = {"train.zip": b"1"}
    assert "has no file train_hq.zip; it has: train.zip." in _told(_side(tmp_path, "training"))


def test_secrets_do_not_show(kaggle: StandInKaggle, tmp_path: Path) -> None:
    dataset = _side(tmp_path, "training", credentials={"username": "visitor", "key": KEY})
    assert KEY not in repr(dataset) + str(dataset) + str(dataset._describe())
    dataset.load()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in written)
