import csv
import gzip
import hashlib
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from isal import igzip

from carvana_kedro.errors import UserError
from carvana_kedro.stores import predictions
from carvana_kedro.stores.folders import DiskFolder, Folder, open_file
from carvana_kedro.stores.predictions import (
    PredictedImages,
    PredictionShards,
    SubmissionFile,
    write_submission,
)
from carvana_kedro.stores.tables import Row

ROWS = [("0123456789ab_01", "1 2 5 3"), ("0123456789ab_02", "")]


def test_shards_are_read_back_in_order(folder: Folder) -> None:
    shards = PredictionShards(folder)
    names = [shards.write("key", number, [row]).name for number, row in enumerate(ROWS)]
    assert list(shards.read(names)) == ROWS
    assert list(shards.read(reversed(names))) == ROWS[::-1]


def test_the_doubts_of_shards_are_joined(folder: Folder) -> None:
    shards = PredictionShards(folder)
    names = [
        shards.write("key", number, [row], doubts={row[0]: number + 0.5}).name
        for number, row in enumerate(ROWS)
    ]
    assert shards.doubts(names) == {"0123456789ab_01": 0.5, "0123456789ab_02": 1.5}
    assert shards.find("key")[1].doubts == {"0123456789ab_02": 1.5}
    # As an earlier version wrote it.
    folder.put(f"{names[0].removesuffix('.csv')}.json", b'{"images": {}, "problems": {}}')
    assert shards.doubts(names) == {"0123456789ab_02": 1.5}
    assert len(shards.find("key")) == 2


def test_a_submission_has_the_format_of_kaggle(tmp_path: Path) -> None:
    path = tmp_path / "submit.csv.gz"
    assert write_submission(*open_file(path), ROWS) == 2
    with gzip.open(path, "rt") as file:
        assert list(csv.reader(file)) == [
            ["img", "rle_mask"],
            ["0123456789ab_01.jpg", "1 2 5 3"],
            ["0123456789ab_02.jpg", ""],
        ]
    assert list(SubmissionFile(*open_file(path))) == ROWS


def test_a_mask_of_many_runs_is_written_and_read(tmp_path: Path) -> None:
    # In a separate process, because the limit of the csv module is global.
    program = """
import sys
from pathlib import Path
from carvana_kedro.stores.folders import DiskFolder, open_file
from carvana_kedro.stores.predictions import PredictionShards, SubmissionFile, write_submission
folder = Path(sys.argv[1])
rows = [("a", " ".join(f"{n} 1" for n in range(1, 400_000, 2)))]
shards = PredictionShards(DiskFolder(folder))
write_submission(*open_file(folder / "submit.csv.gz"), shards.read([shards.write("key", 0, rows).name]))
assert list(SubmissionFile(*open_file(folder / "submit.csv.gz"))) == rows
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


@pytest.mark.parametrize("library", [gzip.GzipFile, igzip.IGzipFile])
def test_the_same_rows_give_the_same_bytes_in_one_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: type
) -> None:
    monkeypatch.setattr(predictions, "_GzipFile", library)
    shards = PredictionShards(DiskFolder(tmp_path / "shards"))
    rows = shards.read([shards.write("key", number, [row]).name for number, row in enumerate(ROWS)])
    assert write_submission(*open_file(tmp_path / "one.csv.gz"), rows) == 2
    assert write_submission(*open_file(tmp_path / "two.csv.gz"), rows) == 2
    assert write_submission(*open_file(tmp_path / "plain.csv.gz"), iter(rows)) == 2
    one, two, plain = (tmp_path / f"{name}.csv.gz" for name in ("one", "two", "plain"))
    assert one.read_bytes() == two.read_bytes()
    member = zlib.decompressobj(wbits=31)
    text = member.decompress(one.read_bytes())
    assert member.eof and not member.unused_data
    assert (
        text
        == gzip.decompress(plain.read_bytes())
        == b"img,rle_mask\n" + "".join(f"{image_id}.jpg,{runs}\n" for image_id, runs in ROWS).encode()
    )


def test_a_failure_leaves_the_old_submission(tmp_path: Path) -> None:
    path = tmp_path / "submit.csv.gz"
    write_submission(*open_file(path), ROWS)
    before = path.read_bytes()

    def rows() -> Iterator[Row]:
        yield ROWS[0]
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError):
        write_submission(*open_file(path), rows())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_submission_can_be_read_repeatedly(folder: Folder) -> None:
    submission = SubmissionFile(folder, "submit.csv.gz")
    write_submission(submission.folder, submission.name, ROWS)
    assert next(iter(submission)) == ROWS[0]
    assert list(submission) == list(submission) == ROWS
    content = submission.local().read_bytes()
    assert submission.sha256() == hashlib.sha256(content).hexdigest()
    assert submission.size() == len(content)


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        gzip.decompress,
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:5],
        _flipped,
        lambda content: content[:-8] + bytes(8),
        lambda content: content + b"more",
    ],
    ids=[
        "not gzip",
        "without its end",
        "half",
        "the header alone",
        "flipped",
        "checksum",
        "trailing bytes",
    ],
)
@pytest.mark.parametrize("library", [gzip.GzipFile, igzip.IGzipFile])
def test_errors_name_the_damaged_submission(
    damage: Callable[[bytes], bytes], library: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "_GzipFile", library)
    path = tmp_path / "submit.csv.gz"
    write_submission(*open_file(path), [(f"{number:012x}_01", f"{number + 1} 2") for number in range(5000)])
    path.write_bytes(damage(path.read_bytes()))
    for read in (list, SubmissionFile.rows_sha256):
        with pytest.raises(UserError) as raised:
            read(SubmissionFile(*open_file(path)))
        assert str(path) in str(raised.value)
        assert "kedro run --pipelines inference" in str(raised.value)


def test_an_empty_file_is_not_a_submission(tmp_path: Path) -> None:
    path = tmp_path / "submit.csv.gz"
    path.touch()
    with pytest.raises(UserError, match=r"should have the columns img,rle_mask"):
        list(SubmissionFile(*open_file(path)))


def test_intact_shards_are_found_and_damaged_ones_are_logged(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    shards = PredictionShards(folder)
    assert shards.find("key") == {}
    names = [shards.write("key", number, [row]).name for number, row in enumerate([*ROWS, *ROWS])]
    shards.write("other", 7, ROWS)
    assert {number: shard.name for number, shard in shards.find("key").items()} == dict(enumerate(names))
    folder.put(names[1], folder.read(names[1])[:-3])
    folder.remove(names[2])
    assert {number: shard.name for number, shard in shards.find("key").items()} == {0: names[0], 3: names[3]}
    assert f"{folder.address(names[1])} is damaged. Its images are predicted again." in caplog.text
    with pytest.raises(UserError, match=r"00002-[0-9a-f]{16}\.csv is missing\. Create the submission again"):
        list(shards.read(names[2:]))


def test_of_two_shards_of_a_number_the_later_one_is_found(folder: Folder) -> None:
    shards = PredictionShards(folder)
    for rows in (ROWS[:1], ROWS[1:]), (ROWS[1:], ROWS[:1]):
        for part in rows:
            shard = shards.write("key", 3, part)
            time.sleep(1.1)  # some stores tell whole seconds
        assert len([*folder.list("key/*.csv")]) == 2  # what a killed run leaves
        assert shards.find("key") == {3: shard}


def test_a_shard_replaces_an_earlier_one_of_its_number(folder: Folder) -> None:
    shards = PredictionShards(folder)
    with shards.locked():
        neighbor = shards.write("key", 4, ROWS)
        for rows in (ROWS[:1], ROWS[1:]):
            shard = shards.write("key", 3, rows)
        folder.put("key/00003-of a killed process.json", b"{}")
        shards.keep_only("key", {3: shard})
    assert shards.find("key") == {3: shard, 4: neighbor}
    shards.remove("key", [neighbor])
    assert [*folder.list("key/*")] == [f"{shard.name.removesuffix('.csv')}.json", shard.name][::-1]
    other = shards.write("other", 0, ROWS)
    shards.remove("key", [shard])
    assert {name.partition("/")[0] for name in folder.list("*/*")} == {"other"}
    assert shards.find("other") == {0: other}
    shards.remove("other")
    assert folder.list("*/*") == {}


def test_images_of_earlier_predictions_are_removed(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    images, shards = PredictedImages(folder), PredictionShards(folder.folder("shards"))
    mask = np.eye(8, dtype=bool)
    seals = {}
    for number, image_id in enumerate(("a", "b/c", "changed", "kept")):
        name = images.name("masks", image_id)
        seals[name] = images.write("masks", image_id, mask)
        shards.write("key", number, ROWS, {name: seals[name]})
    assert images.are_intact(seals, seals, images.list())
    folder.put("masks/changed.png", b"changed by a person")
    folder.put("overlays/other.jpg", b"of a person")
    assert not images.are_intact(seals, seals, images.list())
    listed = {name: [seal] for name, seal in seals.items()}
    assert images.unchanged(listed, images.list()) == seals.keys() - {"masks/changed.png"}
    folder.put("masks/kept.png", folder.read("masks/kept.png"))  # written again: the content decides
    images.remove_others({"masks/kept.png"}, {"masks/kept.png"}, shards)
    assert [name for name in folder.list("**/*.*") if not name.startswith("shards/")] == [
        "masks/changed.png", "masks/kept.png", "overlays/other.jpg"
    ]  # fmt: skip
    assert f"Removed 2 images of earlier predictions from {folder}" in caplog.text
    assert f"2 files in {folder} do not belong to this prediction" in caplog.text
    images.remove(
        {"masks/kept.png": seals["masks/kept.png"], "masks/changed.png": seals["masks/changed.png"]}
    )
    assert [*folder.list("masks/*")] == ["masks/changed.png"]


def test_partial_files_are_removed_under_the_lock(tmp_path: Path) -> None:
    shards = PredictionShards(DiskFolder(tmp_path))
    name = shards.write("key", 0, ROWS).name
    (tmp_path / f"{name}.1a2b3c4d.part").write_bytes(b"half")
    with shards.locked():
        assert {path.suffix for path in (tmp_path / "key").iterdir()} == {".csv", ".json"}
