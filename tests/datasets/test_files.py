"""Datasets of files: saving, loading and previews for Kedro-Viz."""

import base64
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kedro.io import DatasetError
from PIL import Image

from carvana_kedro.datasets import (
    AnimationDataset,
    CheckpointsDataset,
    CurveDataset,
    FigureDataset,
    FolderDataset,
    HTMLDataset,
    ImageDataset,
    MarkdownDataset,
    ModelDataset,
    PicturesDataset,
    PredictedImagesDataset,
    PredictionShardsDataset,
    ReceiptDataset,
    RecordDataset,
    SubmissionDataset,
    TableDataset,
)
from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores.checkpoints import CheckpointStore, save_checkpoint
from carvana_kedro.stores.folders import DiskFolder
from carvana_kedro.stores.predictions import PredictionShards


def test_ids_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "image": ["120e45678901_01", "000000000001_02"],
            "car": ["120e45678901", "000000000001"],
            "view": [1, 2],
            "mask_area": [0.25, float("nan")],
            "problems": ["", "the mask is missing"],
            "digest": ["00000000000000000000000000000001", ""],
            "source": ["0000000000000001", "0000000000000001"],
        }
    )
    dataset = TableDataset(filepath=str(tmp_path / "index.csv"))
    assert not dataset.exists()
    dataset.save(table)
    assert dataset.exists()
    pd.testing.assert_frame_equal(dataset.load(), table)
    assert dataset.preview(nrows=1)["columns"] == list(table.columns)
    assert [path.name for path in tmp_path.iterdir()] == ["index.csv"]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "'=1", "''-1"])
def test_text_that_looks_like_a_formula_is_stored_with_an_apostrophe(tmp_path: Path, name: str) -> None:
    dataset = TableDataset(filepath=str(tmp_path / "index.csv"))
    table = pd.DataFrame(
        {"image": [name, "'car"], "car": ["car", name], "problems": ["", name], "dice": [-1.5, 1]}
    )
    dataset.save(table)
    pd.testing.assert_frame_equal(dataset.load(), table)
    with (tmp_path / "index.csv").open(newline="") as file:
        _, first, second = csv.reader(file)
    assert first == [f"'{name}", "car", "", "-1.5"]
    assert second == ["'car", f"'{name}", f"'{name}", "1.0"]


@given(st.lists(st.text(st.sampled_from("'=+-@\t\n,\"a0é "), max_size=6), min_size=1))
def test_every_text_is_read_as_it_was_saved(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    dataset = TableDataset(filepath=str(tmp_path_factory.mktemp("table") / "index.csv"))
    dataset.save(pd.DataFrame({"image": ids, "view": range(len(ids))}))
    assert dataset.load()["image"].tolist() == ids


def test_arguments_of_kedros_datasets_are_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    dataset = TableDataset(filepath=str(path), load_args={"sep": ";"}, save_args={"sep": ";", "index": False})
    table = pd.DataFrame({"image": ["=a", "b"], "dice": [0.5, 1.0]})
    dataset.save(table)
    assert path.read_text() == "image;dice\n'=a;0.5\nb;1.0\n"
    pd.testing.assert_frame_equal(dataset.load(), table, check_dtype=False)
    assert dataset.preview(1)["data"] == [["=a", 0.5]]
    with pytest.raises(TypeError, match="load_args"):
        RecordDataset(filepath=str(path), load_args={})
    with pytest.raises(DatasetError, match="TableDataset has no argument 'version'"):
        TableDataset.from_config("table", {"type": TableDataset, "filepath": str(path), "versioned": True})


@pytest.mark.parametrize("dataset_type", [TableDataset, RecordDataset, FigureDataset, HTMLDataset])
def test_an_error_names_the_file_and_not_a_temporary_one(tmp_path: Path, dataset_type: type) -> None:
    path = tmp_path / "file"
    path.mkdir()
    dataset = dataset_type(filepath=str(path))
    with pytest.raises(DatasetError) as reading:
        dataset.load()
    with pytest.raises(DatasetError) as writing:
        dataset.save(pd.DataFrame({"a": [1]}) if dataset_type is TableDataset else _content(dataset_type))
    for cause in (reading.value.__cause__, writing.value.__cause__):
        assert isinstance(cause, UserError)
        assert str(cause).startswith(f"{path} cannot be ")
        assert ".part" not in str(cause)


def _content(dataset_type: type) -> Any:
    return {RecordDataset: {}, FigureDataset: go.Figure(), HTMLDataset: "text"}[dataset_type]


def test_a_dry_run_does_not_overwrite_the_receipt_of_an_upload(tmp_path: Path) -> None:
    dataset = ReceiptDataset(filepath=str(tmp_path / "receipt.json"))
    dry, done, again = (
        {"uploaded": False},
        {"uploaded": True, "reference": 1},
        {"uploaded": True, "reference": 2},
    )
    for saved, kept in ((dry, dry), (done, done), (dry, done), (again, again)):
        dataset.save(saved)
        assert dataset.load() == kept


def test_the_preview_of_a_model_omits_the_weights(tmp_path: Path) -> None:
    dataset = ModelDataset(str(tmp_path / "model.pt"))
    assert not dataset.exists()
    with pytest.raises(DatasetError) as raised:
        dataset.load()
    assert isinstance(raised.value.__cause__, UserError)
    assert "kedro run --pipelines model_training" in str(raised.value.__cause__)
    facts = {
        "architecture": "unet_small",
        "width_multiplier": 1.0,
        "input_size": [32, 48],
        "threshold": 0.5,
        "run_id": "a",
        "source": "0123",
        "validation_cars": ["x"],
        "best_threshold": 0.4,
    }
    dataset.save(TrainedModel.from_dict({**facts, "weights": {"a": torch.ones(2)}}))
    assert dataset.exists()
    assert torch.equal(dataset.load().members[0].weights["a"], torch.ones(2))
    assert json.loads(dataset.preview()) == facts


def test_a_model_knows_whether_a_checkpoint_was_named(tmp_path: Path) -> None:
    facts = {"architecture": "unet_small", "width_multiplier": 1.0, "input_size": [32, 48], "threshold": 0.5}
    own, other = str(tmp_path / "model.pt"), str(tmp_path / "other.pt")
    assert ModelDataset(own, optional=True).exists()
    assert ModelDataset(own, optional=True).load() is None
    for path in (own, other):
        ModelDataset(path).save(TrainedModel.from_dict({**facts, "run_id": path, "weights": {}}))
    for checkpoint, expected in ((None, ""), (other, other), (own, "")):
        model = ModelDataset(own, checkpoint=checkpoint, optional=True).load()
        assert model is not None and model.checkpoint == expected
        assert model.run_id == (checkpoint or own)


def test_a_packaged_model_stands_in_until_training_has_begun(tmp_path: Path) -> None:
    own = tmp_path / "sample" / "model.pt"
    dataset = ModelDataset(str(own), fallback="cars")
    assert dataset.exists()
    assert dataset.stand_in == "cars"
    cars = dataset.load()
    assert cars is not None and cars.checkpoint == ""  # only what the user names is a choice
    assert json.loads(dataset.preview())["run_id"] == cars.run_id
    assert not ModelDataset(str(own)).exists()
    chosen = ModelDataset(str(own), checkpoint="cars", fallback="cars")
    assert (chosen.stand_in, chosen.load().checkpoint, chosen.load().digest()) == (
        None,
        "cars",
        cars.digest(),
    )

    with pytest.raises(UserError, match="fallback=trucks: the packaged models are cars"):
        ModelDataset(str(own), fallback="trucks")

    for name in ("run.json", "last-1.pt"):
        begun = own.parent / "checkpoints" / "a" / name
        begun.parent.mkdir(parents=True, exist_ok=True)
        begun.touch()
        assert not dataset.exists()
        begun.unlink()
    begun.touch()
    with pytest.raises(DatasetError, match=r"model\.pt does not exist\. Train it first"):
        dataset.load()

    dataset.save(replace(cars, members=(replace(cars.members[0], run_id="own"),)))
    loaded = dataset.load()
    assert (dataset.stand_in, loaded.run_id, loaded.checkpoint) == (None, "own", "")
    own.write_bytes(own.read_bytes()[:-1000])
    assert dataset.exists()
    with pytest.raises(DatasetError, match=r"model\.pt is truncated"):
        dataset.load()


def test_a_table_that_another_run_has_replaced_is_not_read(tmp_path: Path) -> None:
    path = str(tmp_path / "index.csv")
    mine, other = TableDataset(filepath=path), TableDataset(filepath=path)
    table = pd.DataFrame({"image": ["a"], "car": ["1"]})
    mine.save(table)
    pd.testing.assert_frame_equal(mine.load(), table)
    other.save(table)  # another recipe, side by side, makes the same index
    pd.testing.assert_frame_equal(mine.load(), table)
    other.save(table.assign(image=["b"]))
    with pytest.raises(DatasetError) as raised:
        mine.load()
    assert f"{path} was written by this run, and another run has changed it since" in str(
        raised.value.__cause__
    )
    assert other.load()["image"].tolist() == ["b"]
    mine.save(table)
    assert mine.load()["image"].tolist() == ["a"]


def test_an_epoch_without_a_finite_loss_is_a_number_in_the_history(tmp_path: Path) -> None:
    losses = ("train_loss", "val_loss", "train_dice_coeff", "val_dice_coeff")
    history = TableDataset(filepath=str(tmp_path / "history.csv"), columns=dict.fromkeys(losses, "number"))
    for values in ([float("nan"), 0.5], [float("nan")]):
        table = pd.DataFrame(dict.fromkeys(losses, values))
        history.save(table)
        pd.testing.assert_frame_equal(history.load(), table)


def test_a_record_is_saved_atomically(tmp_path: Path) -> None:
    dataset = RecordDataset(filepath=str(tmp_path / "record.json"))
    dataset.save({"dice": 0.5})
    with pytest.raises(DatasetError):
        dataset.save({"dice": object()})
    assert dataset.load() == {"dice": 0.5}
    assert json.loads(dataset.preview()) == {"dice": 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_an_optional_record_may_be_missing(tmp_path: Path) -> None:
    dataset = RecordDataset(filepath=str(tmp_path / "record.json"), optional=True)
    assert dataset.load() is None
    assert not dataset.exists()
    dataset.save({"dice": 0.5})
    assert dataset.load() == {"dice": 0.5}


def test_the_preview_of_a_page_is_its_header(tmp_path: Path) -> None:
    dataset = HTMLDataset(filepath=str(tmp_path / "page.html"))
    assert dataset.preview() is None
    page = (
        "<head><style>p {}</style></head>\n<header>\n  <h1>unet_1024_gpu</h1>\n</header>\n<main>more</main>"
    )
    dataset.save(page)
    assert dataset.load() == page
    assert _text_of(dataset.preview()) == "unet_1024_gpu"
    dataset.save("<p>no header</p>")
    assert not dataset.preview()


def test_an_image_is_saved_as_png(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    dataset = ImageDataset(str(tmp_path / "image.png"))
    dataset.save(image)
    assert np.array_equal(dataset.load(), image)
    # Margins at the left and right give the preview the shape of Kedro-Viz's panel, 3:2.
    shown = _shown(dataset.preview())
    assert shown.shape == (8, 12, 3)
    assert np.array_equal(shown[:, 1:11], image)
    assert (shown[:, [0, 11]] == 255).all()


def test_an_image_may_be_transparent(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 10, 4), np.uint8)
    dataset = ImageDataset(str(tmp_path / "image.png"))
    dataset.save(image)
    assert np.array_equal(dataset.load(), image)


@pytest.mark.parametrize(("suffix", "kind"), [("jpg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_the_extension_is_the_format_of_an_image(tmp_path: Path, suffix: str, kind: str) -> None:
    image = np.full((80, 100, 3), (200, 60, 30), np.uint8)
    dataset = ImageDataset(str(tmp_path / f"image.{suffix}"))
    dataset.save(image)
    assert np.abs(dataset.load().astype(int) - image).max() < 4
    with Image.open(tmp_path / f"image.{suffix}") as opened:
        assert opened.format == kind


def test_an_animation_plays_its_frames_in_a_loop(tmp_path: Path) -> None:
    frames = [np.full((40, 60, 3), level, np.uint8) for level in (0, 100, 200)]
    dataset = AnimationDataset(str(tmp_path / "car.webp"), milliseconds=150)
    assert not dataset.exists()
    dataset.save(frames)
    assert dataset.exists()
    for loaded, frame in zip(dataset.load(), frames, strict=True):
        assert np.abs(loaded.astype(int) - frame).max() < 4
    with Image.open(tmp_path / "car.webp") as opened:
        opened.seek(1)
        opened.load()
        assert (opened.n_frames, opened.info["loop"], opened.info["duration"]) == (3, 0, 150)


def _pictures(folder: Path, dataset: str, suffix: str) -> PicturesDataset:
    kind = f"carvana_kedro.datasets.{dataset}"
    return PicturesDataset(path=str(folder), dataset=kind, filename_suffix=suffix)


def test_the_pictures_of_a_folder_are_replaced(tmp_path: Path) -> None:
    dataset = _pictures(tmp_path / "cutouts", "ImageDataset", ".png")
    picture = np.full((20, 30, 4), 100, np.uint8)
    assert not dataset.exists()
    dataset.save({"a": picture, "b": lambda: picture + 1, "c": picture})
    assert {name: int(load()[0, 0, 0]) for name, load in dataset.load().items()} == {
        "a": 100,
        "b": 101,
        "c": 100,
    }
    (tmp_path / "cutouts" / "notes.txt").write_text("by a person")
    dataset.save({"d": picture})
    assert {path.name for path in (tmp_path / "cutouts").iterdir()} == {"d.png", "notes.txt"}
    dataset.save({})
    assert not dataset.exists()
    assert dataset._describe()["filepath"] == str(tmp_path / "cutouts")


def test_an_optional_folder_of_pictures_may_be_missing(tmp_path: Path) -> None:
    path, kind = str(tmp_path / "cutouts"), "carvana_kedro.datasets.ImageDataset"
    options = {"path": path, "dataset": kind, "filename_suffix": ".png"}
    optional = PicturesDataset(**options, optional=True)
    assert optional.load() == {}
    with pytest.raises(DatasetError, match="No partitions found"):
        PicturesDataset(**options).load()
    optional.save({"a": np.full((20, 30, 4), 100, np.uint8)})
    assert [*optional.load()] == ["a"]


def test_a_terminal_shows_how_many_pictures_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = _pictures(tmp_path / "cutouts", "ImageDataset", ".png")
    pictures = dict.fromkeys("abc", np.full((20, 30, 4), 100, np.uint8))
    dataset.save(pictures)
    assert capsys.readouterr() == ("", "")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    dataset.save(pictures)
    assert "Drawing" in terminal.getvalue() and "3" in terminal.getvalue()


def test_a_folder_of_pictures_may_be_a_link_to_another_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "cutouts").symlink_to(tmp_path / "disk")
    dataset = _pictures(tmp_path / "cutouts", "ImageDataset", ".png")
    for name in "ab":
        dataset.save({name: np.full((20, 30, 4), 100, np.uint8)})
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["b.png"]


def _shown(preview: str) -> np.ndarray:
    """Return the picture that Kedro-Viz shows."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(preview))))


def test_the_preview_of_a_folder_shows_stills_on_white(tmp_path: Path) -> None:
    cutouts = _pictures(tmp_path / "cutouts", "ImageDataset", ".png")
    cutout = np.zeros((300, 1000, 4), np.uint8)
    cutout[50:250, 100:900] = (10, 20, 30, 255)
    cutout[100:150, 200:400] = 0
    cutouts.save({**dict.fromkeys("abcdefghi", cutout), "0_empty": np.zeros((30, 40, 4), np.uint8)})
    shown = _shown(cutouts.preview())
    assert shown.shape == (800, 1200, 3)
    # Of ten pictures, nine are shown, in two columns: the cut-outs are 800 x 200 without margins.
    assert (shown[90, 700:720] == (10, 20, 30)).all()
    assert (shown[40:50, 760:800] == 255).all()
    turntables = _pictures(tmp_path / "turntables", "AnimationDataset", ".webp")
    turntables.save({"car": [np.full((320, 960, 3), level, np.uint8) for level in (50, 150)]})
    assert np.abs(_shown(turntables.preview())[400, 600].astype(int) - 50).max() < 4
    assert _pictures(tmp_path / "empty", "ImageDataset", ".png").preview() is None


def test_predicted_images_have_a_preview_if_there_are_any(tmp_path: Path) -> None:
    dataset = PredictedImagesDataset(str(tmp_path))
    assert dataset.preview() is None
    dataset.load().write("masks", "a_01", np.ones((20, 30), bool))
    dataset.load().write("cutouts", "a_01", np.full((20, 30, 4), (0, 0, 200, 255), np.uint8))
    assert (_shown(dataset.preview())[380, 600] == (0, 0, 200)).all()
    # A name in another folder is another picture, and what cannot be read is left out.
    dataset.load().write("cutouts", "b/a_01", np.full((20, 30, 4), (0, 200, 0, 255), np.uint8))
    for name in (".DS_Store", "damaged.png"):
        (tmp_path / "cutouts" / name).write_bytes(b"no picture")
    colors = np.unique(_shown(dataset.preview()).reshape(-1, 3), axis=0).tolist()
    assert [0, 0, 200] in colors and [0, 200, 0] in colors


def test_the_preview_of_checkpoints_is_a_table_of_all_runs(tmp_path: Path) -> None:
    dataset = CheckpointsDataset(str(tmp_path))
    assert dataset.preview() is None
    for run, dice in (("first", 0.5), ("second", 0.75)):
        content = {"weights": torch.ones(3), "history": [{"epoch": 2, "val_dice_coeff": dice}]}
        dataset.load().run(run).save("best", 40, content)
    dataset.load().run("second").save("skipped", 41, {"images": torch.ones(3)})
    torch.save([1], tmp_path / "second" / "foreign.pt")
    (tmp_path / "second" / "empty.pt").touch()
    preview = dataset.preview()
    assert preview["columns"] == ["run", "file", "epoch", "validation Dice", "MB", "written"]
    rows = {(run, file): (epoch, dice) for run, file, epoch, dice, *_ in preview["data"]}
    assert rows["first", "best-000000040.pt"] == (2, "0.5000")
    assert rows["second", "best-000000040.pt"] == (2, "0.7500")
    assert rows["second", "skipped-000000041.pt"] == ("", "")
    for name in ("foreign.pt", "empty.pt"):
        assert rows["second", name] == ("cannot be read", "")
    assert len(rows) == 5


def test_a_card_is_previewed_as_html(tmp_path: Path) -> None:
    dataset = MarkdownDataset(filepath=str(tmp_path / "card.md"))
    assert dataset.preview() is None
    dataset.save(
        "# a_b\n\nA long\nline.\n\n| x |\n| - |\n| 1 |\n\n```yaml\nloss:\n  dice: 1\n```\n\n<b>no tag</b>\n"
    )
    shown = dataset.preview().partition("<style>")[0]
    assert _text_of(shown).startswith("a_b")
    for part in (
        "<p>A long line.</p>",
        "<td>1</td>",
        "loss:<br>  dice: 1",
        "&lt;b&gt;no tag",
    ):
        assert part in shown
    assert "\n" not in re.sub(r"<[^>]*>", "", shown)


def _text_of(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html.partition("<style>")[0]).strip()


def test_a_curve_is_previewed_as_a_plot(tmp_path: Path) -> None:
    dataset = CurveDataset(filepath=str(tmp_path / "curve.csv"))
    assert dataset.preview() is None
    dataset.save(pd.DataFrame({"threshold": [0.25, 0.5, 0.75], "dice": [0.5, 0.9, 0.8], "run_id": ["a"] * 3}))
    preview = dataset.preview()
    assert preview["data"][0]["y"] == [0.5, 0.9, 0.8]
    assert preview["layout"]["title"]["text"] == "highest: 0.9000 at threshold 0.50"


def test_pictures_stay_until_the_new_ones_are_drawn(tmp_path: Path) -> None:
    dataset = _pictures(tmp_path, "ImageDataset", ".png")
    picture = np.full((20, 30, 4), 100, np.uint8)
    dataset.save({"a": picture, "b": picture})

    def fail() -> np.ndarray:
        raise UserError("no")

    with pytest.raises(DatasetError):
        dataset.save({"c": fail})
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_an_error_in_a_picture_names_its_cause(tmp_path: Path) -> None:
    def fail() -> np.ndarray:
        raise UserError("x.jpg cannot be decoded")

    dataset = _pictures(tmp_path / "cutouts", "ImageDataset", ".png")
    with pytest.raises(DatasetError) as raised:
        dataset.save({"a": fail, "b": np.zeros((4, 4, 3), np.uint8)})
    assert "x.jpg cannot be decoded" in str(raised.value)


def test_a_submission_is_saved_from_an_iterator(tmp_path: Path) -> None:
    dataset = SubmissionDataset(str(tmp_path / "submit.csv.gz"))
    rows = [("a_01", "1 2"), ("a_02", " ".join(["5 1"] * 100))]
    dataset.save(iter(rows))
    assert list(dataset.load()) == rows
    preview = dataset.preview(nrows=1)
    assert preview["columns"] == ["img", "rle_mask"]
    assert preview["data"] == [["a_01.jpg", "1 2"]]


@pytest.mark.parametrize(
    ("dataset_type", "loaded"),
    [
        (CheckpointsDataset, CheckpointStore),
        (PredictionShardsDataset, PredictionShards),
        (FolderDataset, DiskFolder),
    ],
)
def test_a_handle_loads_a_store_and_cannot_be_saved(tmp_path: Path, dataset_type: type, loaded: type) -> None:
    dataset = dataset_type(str(tmp_path / "new"))
    assert dataset.exists()
    assert isinstance(dataset.load(), loaded)
    assert not (tmp_path / "new").exists()
    with pytest.raises(DatasetError):
        dataset.save("anything")


def test_a_checkpoint_replaces_the_model_until_one_is_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def member(name: str) -> dict[str, Any]:
        sizes = {"width_multiplier": 1.0, "input_size": [32, 48], "threshold": 0.5}
        return {"architecture": "unet_small", **sizes, "weights": {}, "run_id": name}

    save_checkpoint(tmp_path / "folds" / "best-1.pt", {"model": member("a"), "history": []})
    save_checkpoint(tmp_path / "folds" / "model.pt", member("b"))
    for path, run_ids in ((tmp_path / "folds", ["a", "b"]), (tmp_path / "folds" / "best-1.pt", ["a"])):
        model = ModelDataset(str(tmp_path / "model.pt"), str(path)).load()
        assert [member.run_id for member in model.members] == run_ids
        assert model.run_id == "+".join(run_ids)
    dataset = ModelDataset(str(tmp_path / "model.pt"), str(tmp_path / "folds"))
    assert dataset.exists()
    dataset.save(TrainedModel.from_dict(member("c")))
    assert dataset.load().run_id == "c"
    assert "folds is ignored, because this run trained a new model" in caplog.text

    save_checkpoint(tmp_path / "folds" / "other.pt", {"state_dict": {}})
    with pytest.raises(
        DatasetError, match=r"other\.pt is not a carvana-kedro model: it lacks architecture, "
    ):
        ModelDataset(str(tmp_path / "model.pt"), str(tmp_path / "folds")).load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="the folder contains no"):
        ModelDataset(str(tmp_path / "model.pt"), str(tmp_path / "empty")).load()
    with pytest.raises(DatasetError, match=r"The checkpoint .* does not exist"):
        ModelDataset(str(tmp_path / "model.pt"), str(tmp_path / "nowhere.pt")).load()
    with pytest.raises(DatasetError, match=r"nowhere\.pt: there is no such file or folder"):
        ModelDataset(str(tmp_path / "model.pt"), str(tmp_path / "nowhere.pt")).exists()


def test_a_figure_is_saved_atomically_and_previewed(tmp_path: Path) -> None:
    dataset = FigureDataset(filepath=str(tmp_path / "curves.json"))
    figure = go.Figure(go.Scatter(x=[1, 2], y=[0.5, 0.75], name="車"))
    dataset.save(figure)
    assert dataset.load() == figure
    preview = dataset.preview()
    assert preview["data"] == json.loads(figure.to_json())["data"]
    # Kedro-Viz gives its colors only to the first axes. Those of the figure can be read on light and dark.
    assert (
        preview["layout"]["xaxis"]["tickfont"]["color"]
        == preview["layout"]["yaxis"]["tickfont"]["color"]
        == "#8a8a8a"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["curves.json"]
