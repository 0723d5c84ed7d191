"""Masks for a person to correct: what the person has done survives, and what this project wrote is replaced."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from carvana_kedro.errors import UserError
from carvana_kedro.stores.folders import DiskFolder, Folder, disk
from carvana_kedro.stores.review import editable_masks
from carvana_kedro.stores.review.editable_masks import EditableMasks

SIZE = (16, 24)


def _mask(rows: int) -> np.ndarray:
    """A mask whose first rows are the car."""
    return np.arange(SIZE[0])[:, None].repeat(SIZE[1], axis=1) < rows


def _update(folder: Path, photographs: str = "abc", rows: int = 4, digest: str = "1") -> dict[str, str]:
    """Write a mask of each photograph, named after a letter."""
    names = [f"{letter}.png" for letter in photographs]
    return dict(
        EditableMasks(DiskFolder(folder)).update(
            {name: name + digest for name in names}, ((name, _mask(rows)) for name in names)
        )
    )


def _rows(path: Path) -> int:
    return int((np.asarray(Image.open(path))[:, 0] > 0).sum())


def _edit(path: Path) -> bytes:
    """Change a mask as a person would, with another program."""
    Image.fromarray(_mask(9)).convert("L").save(path)
    return path.read_bytes()


def test_masks_are_8_bit_gray_png_files_of_0_and_255(tmp_path: Path) -> None:
    assert _update(tmp_path / "masks") == {"a.png": "written", "b.png": "written", "c.png": "written"}
    with Image.open(tmp_path / "masks" / "b.png") as image:
        assert (image.mode, image.size) == ("L", SIZE[::-1])
        assert np.array_equal(np.asarray(image), _mask(4) * 255)


def test_masks_that_nobody_has_changed_follow_the_model(tmp_path: Path) -> None:
    _update(tmp_path)
    assert set(_update(tmp_path, rows=7).values()) == {"written"}
    assert [_rows(tmp_path / f"{letter}.png") for letter in "abc"] == [7, 7, 7]


def test_changed_masks_are_kept_whatever_the_model_predicts(tmp_path: Path) -> None:
    _update(tmp_path)
    edited = _edit(tmp_path / "b.png")
    for rows in (4, 7, 4, 9):
        assert _update(tmp_path, rows=rows) == {"a.png": "written", "b.png": "kept", "c.png": "written"}
        assert (tmp_path / "b.png").read_bytes() == edited


def test_a_mask_that_was_there_before_is_kept(tmp_path: Path) -> None:
    own = _edit(tmp_path / "b.png")
    assert _update(tmp_path)["b.png"] == "kept"
    assert (tmp_path / "b.png").read_bytes() == own


def test_a_removed_mask_returns_only_with_another_prediction(tmp_path: Path) -> None:
    _update(tmp_path)
    (tmp_path / "b.png").unlink()
    for _ in range(2):
        assert _update(tmp_path) == {"a.png": "written", "b.png": "removed", "c.png": "written"}
        assert not (tmp_path / "b.png").exists()
    assert _update(tmp_path, rows=7)["b.png"] == "written"
    assert _rows(tmp_path / "b.png") == 7


def test_without_the_folder_everything_is_written_again(tmp_path: Path) -> None:
    _update(tmp_path / "masks")
    for path in (tmp_path / "masks").iterdir():
        path.unlink()
    assert set(_update(tmp_path / "masks").values()) == {"written"}


def test_other_photographs_and_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _update(tmp_path, "abc")
    edited = _edit(tmp_path / "b.png")
    (tmp_path / "c.png").unlink()
    _update(tmp_path, "xy")
    assert "has 1 files that are no masks of these photographs" in caplog.text
    assert "such as b.png" in caplog.text
    assert {path.name for path in tmp_path.glob("*.png")} == {"b.png", "x.png", "y.png"}
    assert _update(tmp_path, "abc") == {"a.png": "written", "b.png": "kept", "c.png": "removed"}
    assert (tmp_path / "b.png").read_bytes() == edited
    assert {path.name for path in tmp_path.glob("*.png")} == {"a.png", "b.png"}


def test_a_changed_mask_of_another_photograph_of_the_same_name_stops_before_anything_is_written(
    tmp_path: Path,
) -> None:
    _update(tmp_path)
    edited = _edit(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"1 masks were changed by hand, .*such as b.png. Move these masks"):
        _update(tmp_path, digest="2", rows=7)
    assert _rows(tmp_path / "a.png") == 4
    assert (tmp_path / "b.png").read_bytes() == edited
    (tmp_path / "b.png").unlink()
    assert set(_update(tmp_path, digest="2", rows=7).values()) == {"written"}


def test_a_damaged_record_keeps_every_mask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _update(tmp_path)
    (tmp_path / ".written.json").write_text('{"a.png": 3}')
    assert set(_update(tmp_path, rows=7).values()) == {"kept"}
    assert ".written.json is damaged" in caplog.text


class Killed(BaseException):
    """Ends a run at once, as a signal would."""


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """`killed_after(n)` ends the next run after it has written n files."""
    whole = disk.atomic_path

    def end(count: int) -> None:
        left = iter(range(count))

        def atomic_path(path: Path) -> object:
            if next(left, None) is None:
                raise Killed
            return whole(path)

        monkeypatch.setattr(disk, "atomic_path", atomic_path)

    yield end
    monkeypatch.undo()


@pytest.mark.parametrize("count", range(12))
@pytest.mark.parametrize("photographs", ["abc", "bcd"])
def test_a_run_after_a_killed_one_has_the_result_of_an_undisturbed_one(
    tmp_path: Path,
    killed_after: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    photographs: str,
    count: int,
) -> None:
    monkeypatch.setattr(editable_masks, "_BATCH", 2)
    _update(tmp_path, "abc")
    edited = _edit(tmp_path / "b.png")
    with monkeypatch.context():
        killed_after(count)
        with suppress(Killed):
            _update(tmp_path, photographs, rows=7)
    monkeypatch.undo()
    fates = _update(tmp_path, "abc", rows=5)
    assert fates == {"a.png": "written", "b.png": "kept", "c.png": "written"}
    assert [_rows(tmp_path / f"{letter}.png") for letter in "ac"] == [5, 5]
    assert (tmp_path / "b.png").read_bytes() == edited
    assert {path.name for path in tmp_path.glob("*.png")} == {"a.png", "b.png", "c.png"}
    assert not list(tmp_path.glob("*.part"))


ACTIONS = st.one_of(
    st.tuples(st.just("predict"), st.integers(1, 3)),
    st.tuples(st.just("edit"), st.sampled_from("abc")),
    st.tuples(st.just("remove"), st.sampled_from("abc")),
)


@settings(deadline=None, max_examples=30)
@given(actions=st.lists(ACTIONS, max_size=12))
def test_no_sequence_of_runs_loses_what_a_person_has_drawn(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int | str]]
) -> None:
    folder = tmp_path_factory.mktemp("masks")
    drawn: dict[Path, bytes] = {}
    for action, argument in actions:
        path = folder / f"{argument}.png"
        if action == "predict":
            _update(folder, rows=int(argument))
        elif action == "edit":
            drawn[path] = _edit(path)
        else:
            path.unlink(missing_ok=True)
            drawn.pop(path, None)
        assert {path: path.read_bytes() for path in drawn} == drawn


def test_the_record_is_hidden_and_describes_each_mask_once(tmp_path: Path) -> None:
    _update(tmp_path)
    _update(tmp_path, rows=7)
    record = json.loads((tmp_path / ".written.json").read_text())
    assert {name: len(versions) for name, versions in record.items()} == {"a.png": 1, "b.png": 1, "c.png": 1}
    assert cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).shape == SIZE


def test_what_a_person_has_changed_stays_in_any_folder(folder: Folder) -> None:
    masks, photographs = EditableMasks(folder), {"a.png": "1", "b.png": "2", "c.png": "3"}

    def update(rows: int) -> dict[str, str]:
        return dict(masks.update(photographs, ((name, _mask(rows)) for name in photographs)))

    assert set(update(4).values()) == {"written"}
    folder.put("b.png", b"of a person")
    folder.remove("c.png")
    assert update(4) == {"a.png": "written", "b.png": "kept", "c.png": "removed"}
    assert update(7) == {"a.png": "written", "b.png": "kept", "c.png": "written"}
    assert folder.read("b.png") == b"of a person"
    assert _rows(folder.local("c.png")) == 7
    masks.update({}, [])
    assert [*folder.list("[!.]*")] == ["b.png"]
