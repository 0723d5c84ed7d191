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
from carvana_kedro.stores.kaggle.competition import KaggleCompetition, ListedSubmission
from carvana_kedro.stores.predictions import CREATE_AGAIN, SubmissionFile

logger = logging.getLogger(__name__)

_FIRST_WAIT, _LONGEST_WAIT = 5.0, 30.0  # seconds between two requests for the scores


def check_submission(
    submission: SubmissionFile, sample_submission: list[str], test_image_index: pd.DataFrame
) -> dict[str, Any]:
    """Check that the submission is valid: one mask for every image of the sample submission, and no other row.

    Args:
        submission: the file.
        sample_submission: ids of the images that need a row; empty if the source has no sample submission.
        test_image_index: one row per test image: image, width, height (pixels).

    Returns:
        `rows` and `empty_masks` (their numbers), `bytes` (size of the file) and `sha256` (its hash).

    Raises:
        UserError: rows are missing or invalid (the message lists the first ones), all masks are empty, the source has
            no sample submission, or the index has no size for one of its images.
    """
    sizes = _sizes(sample_submission, test_image_index)
    # Before the rows are read: if the file changes meanwhile, upload_submission sees that the hash differs.
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
            f"{submission} cannot be submitted, {wrong} wrong:\n{first_few(problems)}\n{CREATE_AGAIN}"
        )
    if empty_masks == rows:
        raise UserError(
            f"{submission} has only empty masks: the model found no car in any image. {CREATE_AGAIN}"
        )
    logger.info("%s: %d rows, all valid", submission, rows)
    if empty_masks:
        logger.warning("%d of %d masks are empty, but every image shows a car", empty_masks, rows)
    return {"rows": rows, "empty_masks": empty_masks, "bytes": submission.size(), "sha256": digest}


def upload_submission(
    submission: SubmissionFile,
    submission_check: dict[str, Any],
    competition: KaggleCompetition,
    parameters: Submission,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Upload the checked file, unless Kaggle already has it, and wait for its scores.

    Args:
        submission: the file.
        submission_check: what `check_submission` returns.
        competition: the competition on Kaggle.
        parameters: `submission`.
        sleep: waits for a number of seconds.

    Returns:
        The receipt: `uploaded` (False after a dry run); if the file is on Kaggle, `reference`, `message`, `status`
        (`pending` or `complete`), `public_score`, `private_score` and `page`; and the values of `submission_check`.

    Raises:
        UserError: the file has changed since it was checked, or Kaggle could not score it.
    """
    if parameters.dry_run:
        logger.info("%s is not uploaded, because submission.dry_run is true.", submission)
        return {"uploaded": False, **submission_check}
    if submission.sha256() != submission_check["sha256"]:
        raise UserError(
            f"{submission} has changed since it was checked. "
            "Check it again with the same options: kedro run --pipelines submission"
        )
    # Without it, two runs at the same time could both upload the file.
    with submission.folder.locked(submission.name):
        reference, message = _upload(submission, submission_check["sha256"], competition, parameters.message)
    scored = _wait_for_scores(competition, reference, parameters.wait_minutes, sleep)
    if not scored:
        logger.warning(
            "Kaggle has not scored the submission within %g minutes. See %s, or run again: the file is not uploaded "
            "twice.",
            parameters.wait_minutes,
            competition.page,
        )
    elif scored.status == "error":
        raise UserError(
            f"Kaggle could not score {submission}: {scored.problem or 'no reason given'}. "
            f"See {competition.page}. To upload the same file once more: kedro run --pipelines submission"
        )
    else:
        logger.info("Scores: public %s, private %s", scored.public_score, scored.private_score)
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
    """Return the (height, width) of every image of the sample submission by image id.

    Raises:
        UserError: there is no sample submission, or the index has no size for one of its images.
    """
    if not sample_submission:
        raise UserError(
            "This source has no sample_submission.csv, so there is no competition to submit to. Choose a source that "
            "has one, such as source=kaggle."
        )
    known = test_image_index[test_image_index["width"] > 0]  # 0: missing or unreadable
    sizes = dict(zip(known["image"], zip(known["height"], known["width"], strict=True), strict=True))
    unknown = [image_id for image_id in sample_submission if image_id not in sizes]
    if unknown:
        raise UserError(
            f"The index of the test images has no size for {len(unknown)} of the {len(sample_submission)} images in "
            f"sample_submission.csv, the first: {unknown[0]}. Create it again with the same options: "
            "kedro run --pipelines inference"
        )
    return {image_id: sizes[image_id] for image_id in sample_submission}


def _problem(runs: str, size: tuple[int, int] | None) -> str:
    """Return what is wrong with a row; empty if it is valid."""
    if size is None:
        return "is not in sample_submission.csv"
    try:
        run_lengths.check(runs, *size)
    except ValueError as error:
        return str(error)
    return ""


def _upload(
    submission: SubmissionFile, digest: str, competition: KaggleCompetition, message: str
) -> tuple[int, str]:
    """Upload the file unless Kaggle already has it; return its reference and message.

    The message contains the file's hash, which identifies the file: a run that was killed while it waited does not use
    up another of the day's submissions. A file that Kaggle could not score is uploaded again.
    """
    mark = f"(sha256 {digest[:12]})"
    for sent in competition.submissions():
        if mark in sent.description and sent.status != "error":
            logger.info("Kaggle already has %s: %s", submission, sent.description)
            return sent.reference, sent.description
    message = f"{message} {mark}"
    logger.info("Uploading to Kaggle with the message: %s", message)
    return competition.submit(submission.local(), message), message


def _wait_for_scores(
    competition: KaggleCompetition, reference: int, minutes: float, sleep: Callable[[float], None]
) -> ListedSubmission | None:
    """Return the submission when it is complete or has failed, None if it is still pending after `minutes`."""
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
