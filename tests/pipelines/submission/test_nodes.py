"""The submission pipeline: what it rejects, what it uploads, and what the receipt contains."""

import gzip
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from pydantic import ValidationError

from carvana_kedro.errors import UserError
from carvana_kedro.parameters import Submission
from carvana_kedro.pipelines import submission as pipeline
from carvana_kedro.pipelines.submission.nodes import check_submission, upload_submission
from carvana_kedro.segmentation.model import TrainedModel
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.folders import open_file
from carvana_kedro.stores.predictions import SubmissionFile, write_submission
from carvana_kedro.stores.tables import Row
from models import changed

IDS = ["0123456789ab_01", "0123456789ab_02", "0123456789ab_03"]
# Two sizes: each row is checked with the size of its own image.
INDEX = pd.DataFrame({"image": IDS, "width": [6, 6, 3], "height": [4, 4, 2]})
ROWS = [(IDS[0], "1 2 3 1 24 1"), (IDS[1], ""), (IDS[2], "1 6")]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Iterable[Row]], SubmissionFile]:
    """`write(rows)` writes them as the project writes a submission."""

    def call(rows: Iterable[Row]) -> SubmissionFile:
        write_submission(*open_file(tmp_path / "submit.csv.gz"), rows)
        return SubmissionFile(*open_file(tmp_path / "submit.csv.gz"))

    return call


@pytest.fixture
def submission(write: Callable[[Iterable[Row]], SubmissionFile]) -> SubmissionFile:
    return write(ROWS)


@pytest.fixture
def check(submission: SubmissionFile) -> dict[str, Any]:
    return check_submission(submission, IDS, INDEX)


def _refused(file: SubmissionFile, *expected: str) -> None:
    with pytest.raises(UserError) as caught:
        check_submission(file, IDS, INDEX)
    for text in (str(file.local()), *expected, "kedro run --pipelines inference"):
        assert text in str(caught.value)


def test_a_valid_submission_passes_in_any_order(
    write: Callable[[Iterable[Row]], SubmissionFile],
) -> None:
    for rows in (ROWS, ROWS[::-1]):
        file = write(rows)
        assert check_submission(file, IDS[1:] + IDS[:1], INDEX[::-1]) == {
            "rows": 3,
            "empty_masks": 1,
            "bytes": file.local().stat().st_size,
            "sha256": file.sha256(),
        }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        npst.arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 7))),
        min_size=1,
        max_size=5,
    )
)
def test_encoded_masks_always_pass(
    write: Callable[[Iterable[Row]], SubmissionFile], masks: list[np.ndarray]
) -> None:
    masks.append(np.ones((2, 3), bool))  # a file of only empty masks is rejected
    ids = [f"{number:012x}_01" for number in range(len(masks))]
    heights, widths = zip(*(mask.shape for mask in masks), strict=True)
    index = pd.DataFrame({"image": ids, "width": widths, "height": heights})
    checked = check_submission(write(zip(ids, map(run_lengths.encode, masks), strict=True)), ids, index)
    assert checked["rows"] == len(masks)
    assert checked["empty_masks"] == sum(not mask.any() for mask in masks)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((IDS[2], "1 x"), f"{IDS[2]}: A run-length encoding holds integers only"),
        ((IDS[2], "1.5 1"), f"{IDS[2]}: A run-length encoding holds integers only"),
        ((IDS[2], "1 2 3"), f"{IDS[2]}: A run-length encoding holds pairs, but this one has 3 numbers"),
        ((IDS[2], "0 1"), f'{IDS[2]}: Run 1 ("0 1") must have a start and a length of at least 1'),
        ((IDS[2], "1 0"), f'{IDS[2]}: Run 1 ("1 0") must have a start and a length of at least 1'),
        ((IDS[2], "1 3 3 1"), f'{IDS[2]}: Run 2 ("3 1") starts before the previous run has ended'),
        ((IDS[2], "4 1 1 1"), f'{IDS[2]}: Run 2 ("1 1") starts before the previous run has ended'),
        ((IDS[2], "1 7"), f'{IDS[2]}: Run 1 ("1 7") ends at pixel 7, outside an image of 2 x 3'),
        ((IDS[2], "7 1"), f'{IDS[2]}: Run 1 ("7 1") ends at pixel 7, outside an image of 2 x 3'),
    ],
)
def test_an_invalid_mask_is_named(
    write: Callable[[Iterable[Row]], SubmissionFile], row: Row, message: str
) -> None:
    _refused(write([*ROWS[:2], row]), "cannot be submitted, 1 row is wrong:\n  ", message)


def test_missing_and_unknown_images_are_named(
    write: Callable[[Iterable[Row]], SubmissionFile],
) -> None:
    _refused(write(ROWS[:2]), "1 row is wrong:\n", f"  {IDS[2]}: has no row\n")
    foreign = ("ffffffffffff_01", "1 2")
    _refused(write([*ROWS, foreign]), f"  {foreign[0]}: is not in sample_submission.csv\n")
    _refused(write([*ROWS[:2], foreign]), "2 rows are wrong", foreign[0], f"{IDS[2]}: has no row")
    _refused(write([]), "3 rows are wrong", *IDS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"img,rle_mask\na_01.jpg,1 2\na_01.jpg,1 2\n"), "line 3: 'a_01.jpg' appears twice"),
        (gzip.compress(b"image,mask\n"), "should have the columns img,rle_mask, not 'image,mask'"),
        (gzip.compress(b"img,rle_mask\na_01.jpg,1 2,3\n"), "line 2: 3 fields instead of 2"),
        (gzip.compress(b"img,rle_mask\n\xff,1 2\n"), "is damaged or not a csv"),
        (b"img,rle_mask\n", "is damaged or not gzip"),
        (gzip.compress(b"img,rle_mask\na_01.jpg,1 2\n")[:-9], "is damaged or not gzip"),
        (b"", "should have the columns"),
    ],
    ids=["twice", "header", "fields", "not text", "not gzip", "cut short", "empty"],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "submit.csv.gz"
    path.write_bytes(content)
    _refused(SubmissionFile(*open_file(path)), message)


def test_a_submission_of_empty_masks_is_rejected(
    write: Callable[[Iterable[Row]], SubmissionFile], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match="has only empty masks"):
        check_submission(write((image_id, "") for image_id in IDS), IDS, INDEX)
    check_submission(write((image_id, "" if image_id == IDS[0] else "1 1") for image_id in IDS), IDS, INDEX)
    assert f"1 of {len(IDS)} masks are empty" in caplog.text


def test_the_first_ten_problems_are_listed(write: Callable[[Iterable[Row]], SubmissionFile]) -> None:
    ids = [f"{number:012x}_01" for number in range(12)]
    index = pd.DataFrame({"image": ids, "width": 3, "height": 2})
    rows = [(image_id, "9 9") for image_id in ids]
    with pytest.raises(UserError) as caught:
        check_submission(write(rows), ids, index)
    first, *lines, more, advice = str(caught.value).splitlines()
    assert first.endswith("cannot be submitted, 12 rows are wrong:")
    assert [line.split(":")[0] for line in lines] == [f"  {image_id}" for image_id in ids[:10]]
    assert more == "  ... and 2 more"
    assert advice.endswith("kedro run --pipelines inference")
    with pytest.raises(UserError) as caught:
        check_submission(write(rows[:10]), ids[:10], index)
    assert len(str(caught.value).splitlines()) == 12


def test_a_source_without_a_sample_submission_cannot_be_submitted(submission: SubmissionFile) -> None:
    with pytest.raises(UserError, match=r"no sample_submission\.csv, .* such as source=kaggle"):
        check_submission(submission, [], INDEX)


@pytest.mark.parametrize("index", [INDEX[:2], INDEX.assign(width=[6, 6, 0])], ids=["absent", "unreadable"])
def test_an_image_of_unknown_size_stops(submission: SubmissionFile, index: pd.DataFrame) -> None:
    with pytest.raises(
        UserError, match=rf"no size for 1 of the 3 images .* first: {IDS[2]}\. Create it again"
    ):
        check_submission(submission, IDS, index)


@dataclass(frozen=True)
class Entry:
    """A submission as the stand-in lists it."""

    reference: int
    description: str
    status: Literal["pending", "complete", "error"] = "pending"
    public_score: str = ""
    private_score: str = ""
    problem: str = ""


@dataclass
class StandIn:
    """Kaggle in memory: a submission gets its `outcome` after `looks_needed` requests."""

    outcome: dict[str, str] = field(
        default_factory=lambda: {"status": "complete", "public_score": "0.99", "private_score": "0.98"}
    )
    looks_needed: int = 1
    entries: list[Entry] = field(default_factory=list)
    uploads: list[tuple[Path, str]] = field(default_factory=list)
    page: str = "https://www.kaggle.com/c/carvana-image-masking-challenge/submissions"
    looks: int = 0

    def submit(self, file: Path, message: str) -> int:
        self.uploads.append((file, message))
        self.entries.insert(0, Entry(100 + len(self.uploads), message))
        return self.entries[0].reference

    def submissions(self) -> list[Entry]:
        pending = [entry for entry in self.entries if entry.status == "pending"]
        self.looks += bool(pending)
        if pending and self.looks >= self.looks_needed:
            self.entries = [
                replace(entry, **self.outcome) if entry in pending else entry for entry in self.entries
            ]
        return list(self.entries)


@dataclass
class Clock:
    """Records the seconds instead of sleeping."""

    slept: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_the_checked_file_is_uploaded_and_scored(
    submission: SubmissionFile, check: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    # The account has an older submission with scores.
    kaggle, clock = StandIn(entries=[Entry(7, "other", "complete", "0.1", "0.2")], looks_needed=4), Clock()
    with caplog.at_level(logging.INFO):
        receipt = upload_submission(submission, check, kaggle, Submission(message="first try"), clock)
    message = f"first try (sha256 {submission.sha256()[:12]})"
    assert kaggle.uploads == [(submission.local(), message)]
    assert receipt == {
        "uploaded": True,
        "reference": 101,
        "message": message,
        "status": "complete",
        "public_score": "0.99",
        "private_score": "0.98",
        "page": kaggle.page,
        **check,
    }
    assert clock.slept == [5, 7.5, 11.25]
    assert "Scores: public 0.99, private 0.98" in caplog.text


def test_a_file_that_is_on_kaggle_is_not_uploaded_again(
    submission: SubmissionFile, check: dict[str, Any]
) -> None:
    kaggle = StandIn(looks_needed=3)
    sent = f"another message (sha256 {check['sha256'][:12]})"
    kaggle.entries = [Entry(9, "newer"), Entry(8, sent), Entry(7, "older", "complete", "0.1", "0.2")]
    receipt = upload_submission(submission, check, kaggle, Submission(), Clock())
    assert kaggle.uploads == []
    assert (receipt["reference"], receipt["message"]) == (8, sent)
    assert (receipt["status"], receipt["private_score"]) == ("complete", "0.98")
    # A second run gets the scores immediately.
    clock = Clock()
    assert upload_submission(submission, check, kaggle, Submission(), clock) == receipt
    assert (kaggle.uploads, clock.slept) == ([], [])


def test_waiting_too_long_is_not_an_error(
    submission: SubmissionFile, check: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    kaggle, clock = StandIn(looks_needed=1000), Clock()
    receipt = upload_submission(submission, check, kaggle, Submission(wait_minutes=2), clock)
    assert (receipt["uploaded"], receipt["status"], receipt["public_score"]) == (True, "pending", "")
    assert sum(clock.slept) == 120
    assert max(clock.slept) <= 30
    assert "not scored the submission within 2 minutes" in caplog.text
    assert kaggle.page in caplog.text
    # Without waiting there is one request; the file is not uploaded again.
    clock = Clock()
    upload_submission(submission, check, kaggle, Submission(wait_minutes=0), clock)
    assert clock.slept == []
    assert len(kaggle.uploads) == 1


def test_an_error_gives_kaggles_reason_and_allows_another_upload(
    submission: SubmissionFile, check: dict[str, Any]
) -> None:
    kaggle = StandIn(outcome={"status": "error", "problem": "Evaluation Exception"})
    with pytest.raises(
        UserError, match=r"could not score .*: Evaluation Exception\. See https://www\.kaggle"
    ):
        upload_submission(submission, check, kaggle, Submission(), Clock())
    kaggle.outcome = {"status": "complete", "public_score": "0.9", "private_score": "0.8"}
    assert upload_submission(submission, check, kaggle, Submission(), Clock())["reference"] == 102
    assert len(kaggle.uploads) == 2


def test_a_file_that_changed_after_the_check_is_not_uploaded(
    submission: SubmissionFile, check: dict[str, Any], write: Callable[[Iterable[Row]], SubmissionFile]
) -> None:
    write(ROWS[::-1])
    kaggle = StandIn()
    with pytest.raises(UserError, match=r"submit\.csv\.gz has changed since it was checked\. Check it again"):
        upload_submission(submission, check, kaggle, Submission(), Clock())
    assert (kaggle.uploads, kaggle.looks) == ([], 0)


class Untouchable:
    """Fails on every access."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a dry run used {name}")


def test_a_dry_run_does_not_contact_kaggle(
    submission: SubmissionFile, check: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        receipt = upload_submission(submission, check, Untouchable(), Submission(dry_run=True), Clock())
    assert receipt == {"uploaded": False, **check}
    assert "is not uploaded" in caplog.text


def test_the_pipeline_checks_before_it_uploads(
    submission: SubmissionFile, write: Callable[[Iterable[Row]], SubmissionFile], model: TrainedModel
) -> None:
    kaggle = StandIn()
    entries = {
        "submission": submission,
        "predictions": {"run_id": model.run_id, "model": model.digest()},
        "chosen_model": model,
        "sample_submission": IDS,
        "test_image_index": INDEX,
        "competition": kaggle,
        "params:submission": Submission(),
    }
    made = pipeline.create_pipeline()
    assert [node.name for node in made.nodes] == [
        "submission.check_predictions",
        "submission.check_submission",
        "submission.upload_submission",
    ]
    assert made.inputs() == set(entries)

    def run() -> Any:
        datasets = {name: MemoryDataset(entry, copy_mode="assign") for name, entry in entries.items()}
        return SequentialRunner().run(made, DataCatalog(datasets))["submission_receipt"].load()

    assert run()["status"] == "complete"
    write(ROWS[:1])
    with pytest.raises(UserError, match="2 rows are wrong"):
        run()
    write(ROWS)
    entries["chosen_model"] = changed(model, weights={})  # trained again
    with pytest.raises(UserError, match="was predicted with another model than the one that is used now"):
        run()
    assert len(kaggle.uploads) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"message": ""},
        {"message": "  "},
        {"message": "two\nlines"},
        {"message": "x" * 301},
        {"message": 3},
        {"wait_minutes": -1},
        {"wait_minutes": "30"},
        {"dry_run": "true"},
        {"dryrun": True},
    ],
    ids=str,
)
def test_wrong_parameters_are_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Submission.model_validate(wrong)


def test_right_parameters_are_accepted_and_frozen() -> None:
    parameters = Submission.model_validate({"message": "x" * 100, "wait_minutes": 0.5, "dry_run": True})
    with pytest.raises(ValidationError):
        parameters.dry_run = False  # type: ignore[misc]
