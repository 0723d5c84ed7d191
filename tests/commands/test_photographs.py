import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carvana_kedro.commands.photographs import Found, Photograph, find_photographs
from carvana_kedro.errors import UserError
from carvana_kedro.stores.images.encoding import encode


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a folder of photographs. Their content is not read."""
    names = (
        "a.jpg",
        "b.JPEG",
        "n.m.png",
        "notes.txt",
        ".hidden.jpg",
        "sub/a.webp",
        "sub/deep/c.heic",
        ".git/d.jpg",
    )
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _find(*inputs: str, out: str, suffix: str | None = None, masks: bool = False) -> Found:
    return find_photographs(inputs, out, suffix=suffix, masks=masks)


def _pictures(found: Found) -> dict[str, str]:
    return {str(each.source): str(each.picture) for each in found.photographs}


ALL = {
    "photos/a.jpg": "out/a.png",
    "photos/b.JPEG": "out/b.png",
    "photos/n.m.png": "out/n.m.png",
    "photos/sub/a.webp": "out/sub/a.png",
    "photos/sub/deep/c.heic": "out/sub/deep/c.png",
}


@pytest.mark.parametrize("given", ["photos", "photos/", "photos/**/*"])
@pytest.mark.parametrize("out", ["out", "out/"])
def test_subfolders_are_kept_and_other_and_hidden_files_left_out(here: Path, given: str, out: str) -> None:
    found = _find(given, out=out)
    assert _pictures(found) == ALL
    assert found.ignored == 1
    assert not found.problems


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["photos/*.jpg"], {"photos/a.jpg": "out/a.png"}),
        (["photos/*/*"], {"photos/sub/a.webp": "out/sub/a.png"}),
        (["photos/a.jpg", "photos/notes.txt"], {"photos/a.jpg": "out/a.png", "photos/notes.txt": "out/notes.png"}),
        (["photos/sub", "photos/b.JPEG"], {"photos/sub/a.webp": "out/a.png", "photos/sub/deep/c.heic": "out/deep/c.png",
                                           "photos/b.JPEG": "out/b.png"}),
    ],
)  # fmt: skip
def test_files_folders_and_patterns_can_be_named(
    here: Path, inputs: list[str], expected: dict[str, str]
) -> None:
    assert _pictures(_find(*inputs, out="out")) == expected


def test_a_photograph_that_is_named_twice_counts_once(here: Path) -> None:
    (here / "link.jpg").symlink_to("photos/a.jpg")
    inputs = ["photos/a.jpg", "./photos/../photos/a.jpg", "link.jpg", "photos/*.jpg"]
    assert _pictures(_find(*inputs, out="out")) == {"photos/a.jpg": "out/a.png"}


def test_a_file_with_brackets_is_not_a_pattern(here: Path) -> None:
    (here / "car[1].jpg").touch()
    assert _pictures(_find("car[1].jpg", out="out")) == {"car[1].jpg": "out/car[1].png"}


@pytest.mark.parametrize("given", ["photos", "photos/**/*"])
def test_the_output_below_the_photographs_is_not_taken_for_photographs(here: Path, given: str) -> None:
    (here / "photos/out/sub").mkdir(parents=True)
    (here / "photos/out/sub/a.png").touch()
    assert len(_find(given, out="photos/out").photographs) == len(ALL)


@pytest.mark.parametrize("out", [".", "..", "./", "link"])
@pytest.mark.parametrize("given", ["photos", "photos/**/*"])
def test_the_output_may_contain_the_photographs(here: Path, given: str, out: str) -> None:
    (here / "link").symlink_to(".")
    assert len(_find(given, out=out).photographs) == len(ALL)


def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_listed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(path: str) -> Any:  # permissions do not stop the superuser
        if path.endswith("deep"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = _find("photos", out="out")
    assert len(found.photographs) == len(ALL) - 1
    assert found.problems == ["photos/sub/deep cannot be read: Permission denied."]


def test_one_photograph_can_be_written_to_a_file(here: Path) -> None:
    for out, suffix in (("x.png", None), ("x.WEBP", ".webp"), ("new/x.webp", None)):
        (photograph,) = _find("photos/a.jpg", out=out, suffix=suffix, masks=True).photographs
        assert photograph.picture == Path(out)
        assert photograph.mask == Path(out).with_name("x_mask.png")
    (here / "folder.png").mkdir()
    assert _pictures(_find("photos/a.jpg", out="folder.png")) == {"photos/a.jpg": "folder.png/a.png"}


def test_the_format_decides_the_names(here: Path) -> None:
    (photograph,) = _find("photos/n.m.png", out="out", suffix=".webp", masks=True).photographs
    assert photograph == Photograph(Path("photos/n.m.png"), Path("out/n.m.webp"), Path("out/n.m_mask.png"))


def test_streams_have_no_paths(here: Path) -> None:
    assert _find("-", out="-").photographs == [Photograph(None, None)]
    assert _find("photos/a.jpg", out="-").photographs == [Photograph(Path("photos/a.jpg"), None)]
    (photograph,) = _find("-", out="x.png", masks=True).photographs
    assert photograph == Photograph(None, Path("x.png"), Path("x_mask.png"))
    assert photograph.state("") == "new"
    assert photograph.name == "standard input"


@pytest.mark.parametrize(
    ("inputs", "out", "problem"),
    [
        (["missing"], "out", "missing does not exist"),
        (["photos/*.gif"], "out", "holds no image"),
        (["empty"], "out", "empty holds no image"),
        (["photos"], "x.png", r"x\.png is one file, but there are 5 photographs"),
        (["photos"], "-", "- is one file, but there are 5 photographs"),
        (["photos/a.jpg"], "photos/b.jpg", "cannot be the output: .* Photographs are never written over"),
        (["photos"], "photos/", "is the folder of the photographs"),
        (["photos"], "link", "is the folder of the photographs"),
        (["photos/n.m.png"], "photos", r"The photograph photos/n\.m\.png would be replaced"),
        (["photos/n.m.png"], "photos/n.m.png", r"The photograph photos/n\.m\.png would be replaced"),
        (["photos"], "photos/notes.txt", "is a file. Name a folder"),
        (["photos/*.jpg"], "photos", "is the folder of the photographs"),
        (["*/../photos/*.jpg"], "out", "goes up after its first placeholder"),
        (["photos/a.jpg"], "car.gif", "cannot be the output"),
        (["-"], "out", "For standard input, OUT is - or a file"),
        (["photos/\x1b31m"], "out", r"\\x1b31m does not exist"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_refused(here: Path, inputs: list[str], out: str, problem: str) -> None:
    (here / "empty").mkdir()
    (here / "link").symlink_to("photos")
    with pytest.raises(UserError, match=problem):
        _find(*inputs, out=out)


def test_options_that_contradict_the_output_are_refused(here: Path) -> None:
    with pytest.raises(UserError, match=r"x\.png does not suit --format webp"):
        _find("photos/a.jpg", out="x.png", suffix=".webp")
    with pytest.raises(UserError, match="--mask writes a second file"):
        _find("photos/a.jpg", out="-", masks=True)


def test_photographs_with_the_same_output_are_named_and_the_first_is_kept(here: Path) -> None:
    for name in ("a.heic", "A.png", "b_mask.png"):
        (here / "photos" / name).touch()
    found = _find("photos", out="out", masks=True)
    assert "photos/b.JPEG" in _pictures(found)
    assert found.problems == [
        "photos/a.heic is left out: out/a.png belongs to photos/A.png. Rename one of them.",
        "photos/a.jpg is left out: out/a.png belongs to photos/A.png. Rename one of them.",
        "photos/b_mask.png is left out: out/b_mask.png belongs to photos/b.JPEG. Rename one of them.",
    ]


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_the_state_of_the_files_says_whether_to_write_them(here: Path, suffix: str) -> None:
    (photograph,) = _find("photos/a.jpg", out="out", suffix=suffix, masks=True).photographs
    picture, mask = photograph.files
    picture.parent.mkdir()
    assert photograph.state("one") == "new"

    def write(path: Path, software: str) -> None:
        path.write_bytes(encode(np.zeros((4, 4), bool), path.suffix, software=software))

    write(mask, photograph.mark("one"))
    assert photograph.state("one") == "changed"  # one of two
    write(picture, photograph.mark("one"))
    assert photograph.state("one") == "done"
    assert photograph.state("two") == "changed"
    (here / "photos/a.jpg").write_text("another photograph")
    assert photograph.state("one") == "changed"
    write(picture, photograph.mark("one"))
    assert photograph.state("one") == "changed"  # the mask is of the photograph before
    write(picture, "GIMP")
    assert photograph.state("one") == "foreign"
    for content in (b"", b"text", picture.read_bytes()[:20]):
        picture.write_bytes(content)
        assert photograph.state("one") == "foreign"
    picture.unlink()
    picture.mkdir()
    assert photograph.state("one") == "foreign"
