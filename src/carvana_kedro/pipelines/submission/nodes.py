"""Nodes of the submission pipeline."""

import logging
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
from tqdm import tqdm

from carvana_kedro.errors import UserError
from carvana_kedro.image_index import first_few
from carvana_kedro.parameters import Submission
from carvana_kedro.stores import run_lengths
from carvana_kedro.stores.kaggle.competition import KaggleCompetition, Listed
from carvana_kedro.stores.locks import locked
from carvana_kedro.stores.predictions import MAKE_ANEW, SubmissionFile

logger = logging.getLogger(__name__)

_FIRST_WAIT, _LONGEST_WAIT = 5.0, 30.0  # seconds between two looks at the scores


def check_submission(
    submission: SubmissionFile, sample_submission: list[str], test_image_index: pd.DataFrame
) -> dict[str, Any]:
    """Make sure that the file holds one legal mask for every image of the sample submission, and no other row.

    Returns:
        The numbers of its rows and of its empty masks, and its size in bytes and SHA-256.

    Raises:
        UserError: something is wrong with the file, with a line for each of the first rows; or the source has no
            sample submission, or another one than the images were indexed with.
    """
    sizes = _sizes(sample_submission, test_image_index)
    # Taken before the rows are read: if the file is replaced meanwhile, the upload finds another digest.
    digest = submission.sha256()
    missing = dict.fromkeys(sizes)
    problems = []
    rows = empty_masks = 0
    for image_id, runs in tqdm(submission, "Checking", len(sizes), unit=" rows", leave=False, disable=None):
        rows += 1
        empty_masks += not runs
        missing.pop(image_id, None)
        if problem := _problem(runs, sizes.get(image_id)):
            problems.append(f"{image_id}: {problem}")
    problems += [f"{image_id}: has no row" for image_id in missing]
    if problems:
        wrong = "1 row is" if len(problems) == 1 else f"{len(problems)} rows are"
        raise UserError(
            f"{submission.path} cannot be submitted, {wrong} wrong:\n{first_few(problems)}\n{MAKE_ANEW}"
        )
    if empty_masks == rows:
        raise UserError(
            f"{submission.path} holds nothing but empty masks: its model finds no car at all. {MAKE_ANEW}"
        )
    logger.info("%s: %d rows, all legal", submission.path, rows)
    if empty_masks:
        logger.warning("%d of %d masks are empty, and every photograph shows a car", empty_masks, rows)
    return {"rows": rows, "empty_masks": empty_masks, "bytes": submission.size(), "sha256": digest}


def upload_submission(
    submission: SubmissionFile,
    submission_check: dict[str, Any],
    competition: KaggleCompetition,
    parameters: Submission,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Upload the file that was checked, unless it is there already, and wait for its scores.

    Returns:
        The receipt: whether the file is on Kaggle, and if so its reference, message, status (`pending` or
        `complete`), scores and page; then all that the check says.

    Raises:
        UserError: the file has changed since it was checked, or Kaggle could not score it.
    """
    if parameters.dry_run:
        logger.info("submission.dry_run is true: %s is not uploaded.", submission.path)
        return {"uploaded": False, **submission_check}
    if submission.sha256() != submission_check["sha256"]:
        raise UserError(
            f"{submission.path} has changed since it was checked. "
            "Check it again, with the same options: kedro run --pipelines submission"
        )
    with locked(submission.path):  # two runs at once would both find that it is not there yet
        reference, message = _hand_in(submission, submission_check["sha256"], competition, parameters.message)
    scored = _wait(competition, reference, parameters.wait_minutes, sleep)
    if not scored:
        logger.warning(
            "Not scored within %g minutes. See %s, or run again: the file is not uploaded twice.",
            parameters.wait_minutes,
            competition.page,
        )
    elif scored.status == "error":
        raise UserError(
            f"Kaggle could not score {submission.path}: {scored.problem or 'it gives no reason'}. "
            f"See {competition.page}. The same file is uploaded once more by the next run: "
            "kedro run --pipelines submission"
        )
    else:
        logger.info("Scored: public %s, private %s", scored.public_score, scored.private_score)
    return {
        "uploaded": True,
        "reference": reference,
        "message": message,
        "status": scored.status if scored else "pending",
        "public_score": scored.public_score if scored else "",
        "private_score": scored.private_score if scored else "",
        "page": competition.page,
        **submission_check,
    }


def _sizes(sample_submission: list[str], test_image_index: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Return the (height, width) of every image that the sample submission names.

    Raises:
        UserError: there is no sample submission, or it names an image that the index does not know the size of.
    """
    if not sample_submission:
        raise UserError(
            "This source has no sample_submission.csv: there is no competition to submit to. A submission needs "
            "source=kaggle, or archives that hold sample_submission.csv."
        )
    known = test_image_index[test_image_index["width"] > 0]  # 0: missing or unreadable
    sizes = dict(zip(known["image"], zip(known["height"], known["width"], strict=True), strict=True))
    unknown = [image_id for image_id in sample_submission if image_id not in sizes]
    if unknown:
        raise UserError(
            f"The index of the test images has no size for {len(unknown)} of the {len(sample_submission)} images in "
            f"sample_submission.csv, the first: {unknown[0]}. Make it anew, with the same options: "
            "kedro run --pipelines inference"
        )
    return {image_id: sizes[image_id] for image_id in sample_submission}


def _problem(runs: str, size: tuple[int, int] | None) -> str:
    """Return what is wrong with a row, nothing if it is legal."""
    if size is None:
        return "is not in sample_submission.csv"
    try:
        run_lengths.check(runs, *size)
    except ValueError as error:
        return str(error)
    return ""


def _hand_in(
    submission: SubmissionFile, digest: str, competition: KaggleCompetition, message: str
) -> tuple[int, str]:
    """Upload the file if it is not there yet; return its reference and message.

    A file is known by its digest in the message: a run that was killed while it waited must not cost another of
    the day's submissions. One that could not be scored does not count as there.
    """
    mark = f"(sha256 {digest[:12]})"
    for sent in competition.submissions():
        if mark in sent.description and sent.status != "error":
            logger.info("%s is on Kaggle already: %s", submission.path, sent.description)
            return sent.reference, sent.description
    message = f"{message} {mark}"
    logger.info("Submitting to Kaggle as: %s", message)
    return competition.submit(submission.path, message), message


def _wait(
    competition: KaggleCompetition, reference: int, minutes: float, sleep: Callable[[float], None]
) -> Listed | None:
    """Return the submission once it is complete or has an error, None if it is pending after so many minutes."""
    left, wait = 60 * minutes, _FIRST_WAIT
    while True:
        for listed in competition.submissions():
            if listed.reference == reference and listed.status != "pending":
                return listed
        if left <= 0:
            return None
        sleep(min(wait, left))
        left -= wait
        wait = min(1.5 * wait, _LONGEST_WAIT)
