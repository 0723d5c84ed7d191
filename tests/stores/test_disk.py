from pathlib import Path

import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.stores.disk import require_space, spelled_size


def test_enough_room_is_no_matter(tmp_path: Path) -> None:
    require_space(tmp_path, 1, "writing")
    require_space(tmp_path / "not" / "yet" / "there", 0, "writing")
    assert not list(tmp_path.iterdir())


def test_too_little_room_is_told_with_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "not" / "yet" / "there"
    with pytest.raises(UserError) as refusal:
        require_space(folder, 1 << 60, "unpacking TRAIN.zip")
    told = str(refusal.value)
    assert told.startswith("Unpacking TRAIN.zip needs 1152921.5 TB; ")
    assert f" are free on the disk of {folder}. Make room" in told
    assert "--params data_root=PATH" in told
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="on the disk of relative"):
        require_space(Path("relative"), 1 << 60, "writing")


@pytest.mark.parametrize(
    ("size", "spelled"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (123_456, "123.5 kB"),
        (5_000_000, "5.0 MB"),
        (16_300_000_000, "16.3 GB"),
        (2_500_000_000_000, "2.5 TB"),
        (1 << 60, "1152921.5 TB"),
    ],
)
def test_sizes_are_spelled_as_people_say_them(size: int, spelled: str) -> None:
    assert spelled_size(size) == spelled
