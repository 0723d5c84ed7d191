import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.stores.disk import require_space, spelled_size
from carvana_kedro.stores.locks import locked

# Says "held" once it has the lock, and ends when its input does.
HOLDER = """
import sys
from pathlib import Path
from carvana_kedro.stores.locks import locked
print("asking", flush=True)
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


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


@pytest.mark.parametrize("end", ["ends", "is killed"])
def test_a_process_waits_until_the_holder_ends(tmp_path: Path, end: str) -> None:
    path = tmp_path / "new" / "folder"
    with _holder(path) as first:
        assert [_line(first), _line(first)] == ["asking", "held"]
        with _holder(path) as second, _holder(path.with_name("other")) as other:
            assert [_line(other), _line(other)] == ["asking", "held"]  # locks of other names are other locks
            assert _line(second) == "asking"
            with pytest.raises(subprocess.TimeoutExpired):  # it would end at once if it had the lock
                second.communicate(timeout=0.5)
            if end == "ends":
                first.communicate()
            else:
                first.kill()
            assert second.wait(10) == 0
            other.communicate()
    assert sorted(file.name for file in path.parent.iterdir()) == [".folder.lock", ".other.lock"]


def test_the_lock_is_given_back_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no luck"), locked(tmp_path / "a"):
        raise RuntimeError("no luck")
    with locked(tmp_path / "a"), locked(tmp_path / "b"):
        pass


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


def test_the_lock_is_given_back_although_a_forked_process_lives_on(tmp_path: Path) -> None:
    with locked(tmp_path / "run"):
        forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        forked.start()
    began = time.monotonic()
    with locked(tmp_path / "run"):
        assert time.monotonic() - began < 30
    forked.kill()
    forked.join()
