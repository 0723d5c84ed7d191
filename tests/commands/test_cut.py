"""`carvana-kedro cut`, mostly as a process of its own."""

import io
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import ExifTags, Image

from carvana_kedro.commands.cut import cut
from carvana_kedro.segmentation.prediction.predictor import Predictor
from carvana_kedro.stores.images.competition import ImageStore

COMMAND = [sys.executable, "-m", "carvana_kedro", "cut"]


@pytest.fixture
def photos(training_images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three rendered cars, one of them in a subfolder. Its parent is the working directory."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for image_id, name in zip(training_images.ids(), ("a.jpg", "b.jpg", "sub/c.jpg"), strict=False):
        shutil.copy(training_images.images / f"{image_id}.jpg", folder / name)
    monkeypatch.chdir(tmp_path)
    return folder


def _cut(*arguments: str, status: int = 0) -> Result:
    """Run the command in this process. Messages are in `stderr`."""
    result = CliRunner().invoke(cut, [*arguments, "--device", "cpu"])
    assert result.exit_code == status, (result.output, result.exception)
    return result


def _process(
    *arguments: str, content: bytes = b"", stdout: int | IO[bytes] = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *arguments], input=content, stdout=stdout, stderr=subprocess.PIPE)


def _files(folder: Path | str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def _open(path: str | Path) -> Image.Image:
    image = Image.open(path)
    image.load()
    return image


def test_the_files_hold_what_the_library_computes(photos: Path) -> None:
    result = _cut("photos", "out", "--mask")
    assert result.stdout == ""
    assert result.stderr.startswith("Cut out 3 of 3 photographs in ")
    assert _files("out") == ["a.png", "a_mask.png", "b.png", "b_mask.png", "sub/c.png", "sub/c_mask.png"]
    predictor = Predictor.load("cars", device="cpu")
    for name in ("a", "sub/c"):
        picture, mask = _open(f"out/{name}.png"), _open(f"out/{name}_mask.png")
        assert picture.mode == "RGBA" and mask.mode == "L"
        expected = np.asarray(predictor.cut_out(photos / f"{name}.jpg")).astype(int)
        # The number of threads changes the last bits of the network's results.
        assert (np.abs(np.asarray(picture).astype(int) - expected) > 8).mean() < 0.01
        assert ((np.asarray(mask) > 127) == predictor.mask(photos / f"{name}.jpg")).mean() > 0.99


@pytest.mark.parametrize(
    ("options", "mode", "size"),
    [
        (["--background", "#fff"], "RGB", None),
        (["--background", "blur"], "RGB", None),
        (["--background", "photos/b.jpg", "--canvas", "80x60"], "RGB", (80, 60)),
        (["--canvas", "60x80", "--margin", "10", "--crop"], "RGBA", (60, 80)),
        (["--threshold", "0.9", "--workers", "3"], "RGBA", None),
    ],
)
def test_the_options_decide_the_picture(
    photos: Path, options: list[str], mode: str, size: tuple[int, int] | None
) -> None:
    _cut("photos/a.jpg", "car.webp", *options)
    picture = _open("car.webp")
    assert picture.format == "WEBP"
    assert (picture.mode, picture.size) == (mode, size or _open("photos/a.jpg").size)


def test_a_crop_is_smaller_and_the_margin_is_of_the_car(photos: Path) -> None:
    _cut("photos/a.jpg", "narrow.png", "--crop", "--margin", "0")
    _cut("photos/a.jpg", "wide.png", "--crop", "--margin", "10")
    narrow, wide, whole = (_open(path).width for path in ("narrow.png", "wide.png", "photos/a.jpg"))
    assert narrow < wide < whole


def test_a_model_can_be_named_by_its_path(photos: Path) -> None:
    import carvana_kedro.weights

    path = str(Path(carvana_kedro.weights.__file__).with_name("cars.pt"))
    _cut("photos/a.jpg", "one.png", "--model", path)
    _cut("photos/a.jpg", "two.png", "--model", "cars")
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()


def test_files_that_cannot_be_read_are_listed_and_the_others_cut_out(photos: Path) -> None:
    (photos / "empty.jpg").touch()
    (photos / "text.png").write_text("text")
    (photos / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    (photos / "loop.jpg").symlink_to("loop.jpg")
    (photos / "line\nbreak.jpg").write_text("text")
    (photos / "notes.txt").touch()
    result = _cut("photos", "out", status=1)
    assert _files("out") == ["a.png", "b.png", "sub/c.png"]
    lines = result.stderr.splitlines()
    assert lines[0].startswith("Cut out 3 of 8 photographs in ")
    assert lines[1] == "Not images, and ignored: 1."
    assert [line.partition(":")[0] for line in lines[-5:]] == [
        "photos/cut.jpg cannot be decoded",
        "photos/empty.jpg is empty.",
        r"photos/line\nbreak.jpg is not an image, despite its name.",
        "photos/loop.jpg cannot be opened",
        "photos/text.png is not an image, despite its name.",
    ]


def test_a_picture_that_is_too_large_for_its_format_is_listed(photos: Path) -> None:
    Image.new("RGB", (16_500, 20)).save(photos / "wide.png")
    result = _cut("photos", "out", "--format", "webp", status=1)
    assert (
        "photos/wide.png cannot be written: A webp image has at most 16383 pixels per side" in result.stderr
    )
    assert _files("out") == ["a.webp", "b.webp", "sub/c.webp"]


def test_the_picture_is_upright(photos: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = _open("photos/a.jpg")
    image.save("turned.jpg", exif=exif)
    _cut("turned.jpg", "out")
    assert _open("out/turned.png").size == (image.height, image.width)


def test_a_photograph_without_a_car_is_told(photos: Path) -> None:
    Image.new("RGB", (96, 64), "white").save("white.png")
    result = _cut("white.png", "out", "--crop")
    assert "white.png shows no car: its cut-out is empty." in result.stderr
    assert _open("out/white.png").getbbox() is None


def test_what_was_cut_out_before_is_skipped_unless_the_photograph_is_newer(photos: Path) -> None:
    _cut("photos", "out")
    assert "Cut out before, and skipped: 3." in _cut("photos", "out").stderr
    before = {name: Path("out", name).stat().st_mtime_ns for name in ("a.png", "b.png")}
    (photos / "a.jpg").touch()
    result = _cut("photos", "out")
    assert result.stderr.startswith("Cut out 1 of 3")
    assert Path("out/a.png").stat().st_mtime_ns > before["a.png"]
    assert Path("out/b.png").stat().st_mtime_ns == before["b.png"]
    assert _cut("photos", "out", "--overwrite").stderr.startswith("Cut out 3 of 3")
    assert Path("out/b.png").stat().st_mtime_ns > before["b.png"]


def test_other_options_replace_what_was_cut_out_before(photos: Path) -> None:
    _cut("photos", "out", "--background", "photos/a.jpg")
    content = Path("out/b.png").read_bytes()
    _cut("photos/b.jpg", "out", "--crop")  # as if killed: the others have the old options still
    for options, count in ((["--crop"], 2), (["--threshold", "0.9"], 3), (["--crop"], 3), ([], 3)):
        result = _cut("photos", "out", *options)
        assert result.stderr.startswith(f"Cut out {count} of 3"), options
        assert f"Cut out before from other photographs or with other options: {count}." in result.stderr
    assert "Cut out before, and skipped: 3." in _cut("photos", "out", "--margin", "7").stderr  # has no effect
    _cut("photos/a.jpg", "out/a.png", "--background", "red")
    assert _cut("photos", "out").stderr.startswith("Cut out 1 of 3")
    shutil.copy(photos / "b.jpg", photos / "a.jpg")  # the same name of a background, another picture
    _cut("photos", "out", "--background", "photos/a.jpg")
    assert Path("out/b.png").read_bytes() != content


def test_one_file_holds_what_was_asked_for_last(photos: Path) -> None:
    _cut("photos/a.jpg", "car.png")
    content = Path("car.png").read_bytes()
    assert "Cut out before, and skipped: 1." in _cut("photos/a.jpg", "car.png").stderr
    assert _cut("photos/b.jpg", "car.png").stderr.startswith("Cut out 1 of 1")
    assert _cut("photos/a.jpg", "car.png").stderr.startswith("Cut out 1 of 1")
    assert Path("car.png").read_bytes() == content


def test_files_of_other_programs_are_not_replaced(photos: Path) -> None:
    image = _open("photos/a.jpg")
    Path("out").mkdir()
    image.save("out/a.png")
    content = Path("out/a.png").read_bytes()
    result = _cut("photos", "out", status=1)
    assert "Cut out 2 of 3" in result.stderr
    assert "photos/a.jpg is left out: out/a.png exists, and this command did not write it." in result.stderr
    assert Path("out/a.png").read_bytes() == content
    _cut("photos/a.jpg", "out/a.png", status=1)
    assert Path("out/a.png").read_bytes() == content
    _cut("photos", "out", "--overwrite")
    assert Path("out/a.png").read_bytes() != content
    _open("out/b.png").save("out/b.png")  # changed by a person
    assert "out/b.png exists, and this command did not write it" in _cut("photos", "out", status=1).stderr


def test_a_heic_photograph_is_cut_out(photos: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(_open("photos/a.jpg")).save("photos/phone.HEIC", quality=90)
    _cut("photos/phone.HEIC", "out")
    jpg, heic = _cut("photos/a.jpg", "out"), _open("out/phone.png")
    assert jpg.stderr.startswith("Cut out 1 of 1")
    difference = np.asarray(heic).astype(int)[..., 3] - np.asarray(_open("out/a.png")).astype(int)[..., 3]
    assert (np.abs(difference) > 128).mean() < 0.01


def test_a_photograph_that_is_unlike_those_of_the_training_is_named(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carvana_kedro.commands.cut.DOUBTFUL", 0.0)
    result = _cut("photos/a.jpg", "out")
    assert "photos/a.jpg is unlike the photographs of the training: look at its cut-out." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos"], "For example: carvana-kedro cut photos out"),
        (["photos", "out", "--threshold", "nan"], "The threshold is above 0 and below 1, not nan."),
        (["photos", "out", "--format", "webp", "--canvas", "16384x20"], "at most 16383 pixels per side"),
        (["photos", "x" * 300], "cannot be used: File name too long"),
        (["photos", "out", "--background", "x" * 300], "cannot be used: File name too long"),
        (["photos", "out", "--model", "x" * 300], "cannot be used: File name too long"),
        (["missing", "out"], "missing does not exist."),
        (["", "out"], "An argument is empty."),
        (["photos", "out", "--background", ""], "An argument is empty."),
        (["photos", "out", "--canvas", "80"], "The canvas is written like 800x600, width x height, not 80."),
        (["photos", "out", "--canvas", "8x8"], "The canvas has 16 to 16384 pixels per side, not 8x8."),
        (["photos", "out", "--background", "purpel"], "purpel is neither a file nor a color"),
        (
            ["photos", "out", "--model", "bikes"],
            "The model bikes is not a file. The packaged model is called cars.",
        ),
        (["photos", "out", "--threshold", "1"], "1.0 is not in the range 0<x<1"),
        (["photos", "out", "--format", "jpg"], "'jpg' is not one of 'png', 'webp'"),
        (["photos", "photos"], "is the folder of the photographs"),
        (["photos/a.jpg", "photos/b.jpg"], "cannot be the output"),
    ],
)
def test_a_wrong_command_has_status_2_and_writes_nothing(
    photos: Path, arguments: list[str], message: str
) -> None:
    before = _files(".")
    result = _cut(*arguments, status=2)
    assert message in " ".join(result.stderr.split())
    assert _files(".") == before


def test_a_file_that_cannot_be_written_stops_the_command(photos: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = _process("photos/a.jpg", "-", stdout=full)
    assert done.returncode == 1
    assert b"Error: Standard output cannot be written: No space left on device." in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_name_that_cannot_be_written_is_listed_and_the_others_are_cut_out(photos: Path) -> None:
    name = f"{250 * 'x'}.jpg"
    shutil.copy(photos / "a.jpg", photos / name)  # NAME_mask.png is too long
    Path("out").mkdir()
    Path("out/sub").touch()
    result = _cut("photos", "out", "--mask", status=1)
    assert "Cut out 2 of 4" in result.stderr
    assert "out/sub/c_mask.png cannot be written: " in result.stderr
    assert f"{250 * 'x'}_mask.png cannot be written: File name too long" in result.stderr
    assert _files("out") == ["a.png", "a_mask.png", "b.png", "b_mask.png", "sub"]


def test_a_model_that_is_no_model_stops_the_command(photos: Path) -> None:
    Path("model.pt").write_text("text")
    assert (
        "Error: model.pt is truncated, or is not"
        in _cut("photos", "out", "--model", "model.pt", status=1).stderr
    )


def test_standard_input_and_output_can_be_used(photos: Path) -> None:
    done = _process(
        "-", "-", "--format", "webp", "--canvas", "64x48", content=(photos / "a.jpg").read_bytes()
    )
    assert done.returncode == 0, done.stderr
    picture = _open(io.BytesIO(done.stdout))  # type: ignore[arg-type]
    assert (picture.format, picture.size) == ("WEBP", (64, 48))
    assert b"Cut out 1 of 1" in done.stderr


def test_standard_input_that_is_no_image_has_status_1(photos: Path) -> None:
    done = _process("-", "car.png")
    assert done.returncode == 1
    assert done.stderr.endswith(b"standard input is empty.\n")
    assert not Path("car.png").exists()


def test_a_closed_pipe_ends_the_command_quietly(photos: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "photos/a.jpg", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 1
    assert b"Traceback" not in errors and b"Error" not in errors


def test_neither_the_command_nor_its_help_imports_kedro(photos: Path) -> None:
    code = (
        "import sys\n"
        "from carvana_kedro.__main__ import main\n"
        "for arguments in (['--help'], ['cut', '--help'], ['cut', 'photos/a.jpg', 'out']):\n"
        "    try: main(arguments)\n"
        "    except SystemExit as end: assert end.code == 0, arguments\n"
        "    assert 'torch' not in sys.modules or 'out' in arguments\n"
        "print(*{'kedro', 'pandas', 'pydantic', 'omegaconf'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""
    assert Path("out/a.png").exists()


def _many(photos: Path, count: int) -> None:
    for number in range(count):
        shutil.copy(photos / "a.jpg", photos / f"{number:03d}.jpg")


def test_ctrl_c_while_photographs_are_searched_has_status_130(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("carvana_kedro.commands.cut.find_photographs", interrupt)
    assert "Interrupted. The same command continues." in _cut("photos", "out", status=130).stderr


def _start(arguments: Sequence[str], written: int) -> subprocess.Popen[bytes]:
    """Start a process, and wait until it has written some files."""
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(list(Path("out").rglob("*.png"))) < written:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    return process


def test_after_kill_9_the_same_command_continues_and_nothing_is_half_written_or_done_twice(
    photos: Path,
) -> None:
    _many(photos, 150)
    with _start(["photos", "out", "--mask", "--workers", "2"], written=6) as process:
        process.kill()
    pictures = [name for name in _files("out") if name.endswith(".png")]
    assert 6 <= len(pictures) < 2 * 153
    for name in pictures:
        _open(Path("out") / name)
    times = {name: (Path("out") / name).stat().st_mtime_ns for name in pictures}
    done = {name for name in pictures if not name.endswith("_mask.png")}
    result = _cut("photos", "out", "--mask")
    assert f"Cut out {153 - len(done)} of 153" in result.stderr
    names = [path.relative_to(photos).with_suffix("") for path in photos.rglob("*.jpg")]
    assert _files("out") == sorted(f"{name}{end}" for name in names for end in (".png", "_mask.png"))
    for name in done:
        assert (Path("out") / name).stat().st_mtime_ns == times[name]


def test_after_ctrl_c_the_status_is_130_and_the_same_command_continues(photos: Path) -> None:
    _many(photos, 150)
    with _start(["photos", "out"], written=2) as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr
        errors = process.stderr.read().decode()
    assert process.returncode == 130, errors
    assert "Interrupted. The same command continues." in errors
    assert "Traceback" not in errors
    written = _files("out")
    assert all(name.endswith(".png") for name in written)  # no temporary file
    assert f"Cut out before, and skipped: {len(written)}." in _cut("photos", "out").stderr
    assert len(_files("out")) == 153
