"""The report as a file, without a browser."""

import base64
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from carvana_kedro.errors import UserError
from carvana_kedro.pipelines.reporting.report import write_report
from carvana_kedro.pipelines.reporting.report.car_names import car_names
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.images.folder import FolderStore
from models import RECIPE, changed

Inputs = Callable[..., dict[str, Any]]

_VOID = {"meta", "img", "br"}  # have no end
_INLINE = {"a", "code", "small", "span", "strong"}
_SVG = {"path", "rect", "circle", "polyline"}  # end with />


class Page(HTMLParser):
    """The elements of a page, its text by row and paragraph, and what is wrong with its nesting."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag in _VOID:
            return
        assert tag not in _SVG, f"<{tag}> has no end"
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in _SVG
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self.texts.append("" if tag in _INLINE else " ")

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.texts.append(data)
        if {"th", "td"} & set(self._open):
            self.rows[-1][-1] += data

    def attributes(self, *tags: str) -> Iterator[dict[str, str | None]]:
        return (attributes for tag, attributes in self.elements if tag in tags)

    @property
    def text(self) -> str:
        """All text, with single spaces."""
        return " ".join("".join(self.texts).split())


def _without_pictures(page: str) -> str:
    return re.sub(r"data:image/webp;base64,[\w+/=]+", "", page)


def test_the_page_has_the_numbers_of_the_score_files(inputs: Inputs, training_images: ImageStore) -> None:
    values = inputs(training_images)
    page, scores = Page(write_report(**values)), values["validation_scores"]
    assert f"mean Dice coefficient {scores['dice'].mean():.4f} ±" in page.text
    assert f"lowest Dice coefficient of an image {scores['dice'].min():.4f}" in page.text
    row = next(row for row in page.rows if row[0] == "intersection over union")
    assert row[1:] == [f"{scores['iou'].agg(name):.4f}" for name in ("mean", "std", "min", "max")]
    for car, rows in scores.groupby("car"):
        dice, distance = rows["dice"], f"{rows['boundary_error'].mean():,.1f}"
        expected = [str(len(rows)), *(f"{dice.agg(name):.4f}" for name in ("mean", "min", "max")), distance]
        (row,) = (row for row in page.rows if row[0].startswith(car))
        assert row[1:] == expected
        assert row[0].split(maxsplit=1)[1] == car_names(training_images)[car]
    assert ["training", "2", "8"] in page.rows and ["validation", "2", "8"] in page.rows
    worst = scores.sort_values("dice", kind="stable")["image"].iloc[0]
    assert worst in page.text[page.text.index("Worst cases The images") :][:400]
    assert "with the seed 2017. Another seed gives other scores." in page.text
    assert "It knows nothing of boats & ships." in page.text
    assert "--params source=toys,recipe=mine" in page.text
    assert "training 8.0 s, 2 epochs" in page.text


def test_the_page_is_well_formed_and_accessible(inputs: Inputs, training_images: ImageStore) -> None:
    page = Page(write_report(**inputs(training_images)))
    assert all(attributes["alt"] for attributes in page.attributes("img"))
    charts = [svg for svg in page.attributes("svg") if svg.get("aria-hidden") != "true"]
    assert len(charts) == 6
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in charts)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [link["href"] for link in page.attributes("a")]
    assert links == [f"#{name}" for name in ids]
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    assert next(page.attributes("html"))["lang"] == "en"


def test_the_page_needs_no_other_file(inputs: Inputs, training_images: ImageStore) -> None:
    text = write_report(**inputs(training_images))
    page = Page(text)
    pictures = [str(attributes["src"]) for attributes in page.attributes("img")]
    assert len(pictures) == 1 + 2 * 4  # the typical image, and two pictures of two views of two cars
    for picture in pictures:
        kind, content = picture.split(",")
        assert kind == "data:image/webp;base64"
        with Image.open(BytesIO(base64.b64decode(content))) as opened:
            assert opened.format == "WEBP" and opened.width == 720
    rest = _without_pictures(text)
    assert not re.search(r"https?:|//|url\(|@import|<script|<link", rest)
    assert len(text) < 1_500_000


def test_names_from_outside_are_escaped(inputs: Inputs, unpacked: Path, tmp_path: Path) -> None:
    name = '<b>&"x'
    for kind, pattern in (("images", "train-*/*.jpg"), ("masks", "train_masks-*/*.gif")):
        (tmp_path / kind).mkdir()
        for number, file in enumerate(sorted(unpacked.glob(pattern))[:4]):
            shutil.copy(file, tmp_path / kind / f"{name}{number}{file.suffix}")
    values = inputs(FolderStore(tmp_path / "images", tmp_path / "masks"), validation_cars=3)
    text = write_report(**values)
    page = Page(text)  # fails if a name opens an element
    assert "<b>" not in text
    assert [row[0] for row in page.rows if name in row[0]] == values["validation_scores"]["car"].tolist()
    alts = [str(attributes["alt"]) for attributes in page.attributes("img")]
    assert all(name in alt for alt in alts)
    assert "do not tell which view they show" in page.text


def test_a_run_with_folds_is_scored_on_all_cars(inputs: Inputs, training_images: ImageStore) -> None:
    values = inputs(training_images, folds=2)
    # The run decides, not the recipe as it is now.
    page = Page(write_report(**{**values, "model_training": RECIPE}))
    assert "16 images of 4 cars that the model which scored them was not trained on" in page.text
    assert "one training run of 2 models" in page.text
    lines = [line for line in page.attributes("polyline") if "train" in str(line["class"])]
    assert len(lines) == 2 * 2  # of two folds in two charts


def test_one_car_has_no_standard_error(inputs: Inputs, training_images: ImageStore) -> None:
    page = Page(write_report(**inputs(training_images, validation_cars=1)))
    assert "mean Dice coefficient of one car" in page.text
    assert "4 images of 1 car that" in page.text
    assert "±" not in page.text


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (None, "not predicted when this page was written"),
        ({"run_id": "run", "images": 0, "dice": None}, "without true masks they have no score"),
        ({"run_id": "other", "images": 7, "dice": 0.5}, "predicted by another model, run other"),
        ({"run_id": "run", "images": 7, "dice": 0.91234}, "7, Dice coefficient 0.9123"),
    ],
)
def test_the_test_images_have_a_score_if_it_is_known_and_of_this_model(
    inputs: Inputs, training_images: ImageStore, score: dict[str, Any] | None, expected: str
) -> None:
    page = Page(write_report(**{**inputs(training_images), "submission_score": score}))
    assert next(row[1].strip() for row in page.rows if row[0] == "test images").endswith(expected)
    assert ("Dice coefficient of the 7 test images 0.9123" in page.text) == ("0.9123" in expected)


def test_a_run_of_an_earlier_version_has_no_calibration(inputs: Inputs, training_images: ImageStore) -> None:
    values = inputs(training_images)
    curve = values["validation_threshold_curve"].drop(columns=["positive", "true_positive"])
    assert "expected calibration error" in Page(write_report(**values)).text
    page = Page(write_report(**{**values, "validation_threshold_curve": curve}))
    assert "Calibration is not shown" in page.text


def test_results_of_other_runs_are_not_reported(inputs: Inputs, training_images: ImageStore) -> None:
    values = inputs(training_images)
    with pytest.raises(UserError, match="There is no model that run_manifest could belong to"):
        write_report(**{**values, "trained_model": None})
    for name in ("training_history", "validation_scores", "validation_threshold_curve"):
        with pytest.raises(UserError, match=f"{name} belongs to run other, but the model to run run"):
            write_report(**{**values, name: values[name].assign(run_id="other")})
    with pytest.raises(UserError, match="run_manifest belongs to run run, but the model to run later"):
        write_report(**{**values, "trained_model": changed(values["trained_model"], run_id="later")})
    with pytest.raises(UserError, match="split again after the training"):
        write_report(**{**values, "validation_index": values["validation_index"][1:]})
    with pytest.raises(UserError, match="trained on other files"):
        write_report(**{**values, "trained_model": changed(values["trained_model"], source="another")})
