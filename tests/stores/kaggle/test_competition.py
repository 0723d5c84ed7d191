"""KaggleCompetition against a stand-in for Kaggle: real HTTP, with failures of the connection and the server."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.stores.kaggle.competition import KaggleCompetition
from carvana_kedro.stores.kaggle.connection import CHUNK
from carvana_kedro.stores.kaggle.download import fetched_digest
from standin_kaggle import COMPETITION, KEY, TOKEN, USERNAME, Fault, StandInKaggle, _Handler

CONTENT = os.urandom(3_000_000)


@pytest.fixture
def kaggle(kaggle: StandInKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandInKaggle:
    """The stand-in with two files, and no credentials in the environment."""
    monkeypatch.delenv("KAGGLE_USERNAME")
    monkeypatch.delenv("KAGGLE_KEY")
    kaggle.folder = tmp_path
    kaggle.content = {"train.zip": CONTENT, "train_masks.zip": b"masks"}
    return kaggle


@pytest.fixture
def competition() -> KaggleCompetition:
    return KaggleCompetition(COMPETITION, {"username": USERNAME, "key": KEY}, first_wait=0.01, timeout=0.5)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "here" / "train.zip"


def _error_of(kaggle: StandInKaggle, competition: KaggleCompetition, target: Path) -> str:
    with pytest.raises(UserError) as raised:
        competition.fetch("train.zip", target)
    assert not target.exists()
    assert KEY not in str(raised.value)
    assert "s3cret" not in str(raised.value)
    return str(raised.value)


def test_all_pages_of_the_file_list_are_read(kaggle: StandInKaggle, competition: KaggleCompetition) -> None:
    assert competition.files() == {"train.zip": len(CONTENT), "train_masks.zip": 5}
    assert kaggle.requests == ["ListDataFiles"] * 2


def test_a_file_is_fetched_once(kaggle: StandInKaggle, competition: KaggleCompetition, target: Path) -> None:
    competition.fetch("train.zip", target)
    assert target.read_bytes() == CONTENT
    assert kaggle.sent["train.zip"] == len(CONTENT)
    assert {path.name for path in target.parent.iterdir()} == {
        "train.zip",
        "train.zip.json",
        ".train.zip.lock",
    }
    asked = len(kaggle.requests)
    competition.fetch("train.zip", target)
    assert len(kaggle.requests) == asked


def test_the_manifest_has_the_digest(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path
) -> None:
    assert fetched_digest(target) is None
    competition.fetch("train.zip", target)
    assert fetched_digest(target) == sha256(CONTENT).hexdigest()


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([Fault(cut_after=1)], id="cut after the first byte"),
        pytest.param([Fault(cut_after=1_000_000), Fault(cut_after=700_000)], id="cut twice"),
        pytest.param([Fault(cut_after=len(CONTENT) - 1)], id="cut before the last byte"),
        pytest.param([Fault(silent_after=1_000_000)], id="silent"),
        pytest.param([Fault(500), Fault(502), Fault(503), Fault(504), Fault(429)], id="five failures"),
        pytest.param([Fault(cut_after=1_000_000), Fault(503), Fault(503)], id="failures after a cut"),
        # More failures than allowed attempts, but each attempt makes progress.
        pytest.param([Fault(cut_after=100_000)] * 25, id="a bad connection"),
    ],
)
def test_transient_failures_are_retried(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path, faults: list[Fault]
) -> None:
    kaggle.fail("train.zip", *faults)
    competition.fetch("train.zip", target)
    assert target.read_bytes() == CONTENT
    # Only the bytes of the last, incomplete chunk are fetched twice.
    again = kaggle.sent["train.zip"] - len(CONTENT)
    assert again <= len(faults) * CHUNK


@pytest.mark.parametrize("name", ["ListDataFiles", "DownloadDataFile", "train.zip"])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_the_number_of_attempts_is_limited(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path, name: str, status: int
) -> None:
    kaggle.fail(name, *[Fault(status)] * 100)
    if name == "ListDataFiles":
        with pytest.raises(UserError, match=f"Kaggle is unavailable: {status} .*, 6 times in a row"):
            competition.files()
    else:
        assert f"Kaggle is unavailable: {status}" in _error_of(kaggle, competition, target)
    assert kaggle.asked(name) == 6


def test_waits_increase_and_follow_retry_after(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    kaggle.fail(
        "DownloadDataFile",
        Fault(503),
        Fault(503),
        Fault(429, {"Retry-After": "7"}),
        Fault(429, {"Retry-After": date}),
        Fault(500),
    )
    competition.fetch("train.zip", target)
    assert waits == pytest.approx([0.01, 0.02, 7, 30, 0.16], abs=2)
    assert waits[:2] == [0.01, 0.02]


def test_a_long_wait_is_an_error(kaggle: StandInKaggle, competition: KaggleCompetition, target: Path) -> None:
    kaggle.fail("DownloadDataFile", Fault(429, {"Retry-After": "3600"}))
    assert "Kaggle asks to wait 60 minutes (429 Too Many Requests)" in _error_of(kaggle, competition, target)


def test_a_partial_file_is_kept_for_the_next_run(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path
) -> None:
    kaggle.fail("train.zip", Fault(cut_after=2_000_000), *[Fault(503)] * 6)
    assert "files that are already downloaded are kept" in _error_of(kaggle, competition, target)
    kaggle.faults.clear()
    KaggleCompetition(COMPETITION, {"token": TOKEN}).fetch("train.zip", target)
    assert target.read_bytes() == CONTENT
    assert kaggle.sent["train.zip"] - len(CONTENT) < CHUNK
    assert kaggle.ranges[-1].startswith("bytes=2000000-")


def test_another_version_is_fetched_from_the_beginning(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path
) -> None:
    kaggle.fail("train.zip", Fault(cut_after=2_000_000), *[Fault(503)] * 6)
    _error_of(kaggle, competition, target)
    kaggle.faults.clear()
    # The second one is shorter than the existing part: the server cannot satisfy the range.
    for content in (os.urandom(2_500_000), os.urandom(10_000)):
        kaggle.content["train.zip"] = content
        competition.fetch("train.zip", target)
        assert target.read_bytes() == content
        target.unlink()


@pytest.mark.parametrize("damage", ["", "{", '{"size": 5}', "[]"])
def test_a_partial_file_without_valid_marker_is_fetched_again(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path, damage: str
) -> None:
    target.parent.mkdir()
    target.with_name("train.zip.part").write_bytes(b"something else")
    target.with_name("train.zip.part.json").write_text(damage)
    competition.fetch("train.zip", target)
    assert target.read_bytes() == CONTENT


def test_wrong_credentials_are_an_error(kaggle: StandInKaggle, target: Path) -> None:
    competition = KaggleCompetition(COMPETITION, {"username": USERNAME, "key": "wrong"})
    raised = _error_of(kaggle, competition, target)
    assert "Kaggle does not accept the credentials from credentials.yml (401)" in raised
    assert len(kaggle.requests) == 1


def test_the_error_contains_the_reason_of_kaggle(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path
) -> None:
    kaggle.fail("DownloadDataFile", Fault(400, reason="Your phone number is not verified."))
    assert (
        _error_of(kaggle, competition, target)
        == "Kaggle rejects the request: 400 Your phone number is not verified."
    )


def test_the_reason_of_kaggle_is_shown_in_one_line(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path
) -> None:
    kaggle.fail("DownloadDataFile", Fault(400, reason="no\x1b[2J\nERROR" + "x" * 10_000))
    raised = _error_of(kaggle, competition, target)
    assert raised.startswith(r"Kaggle rejects the request: 400 no\x1b[2J\nERRORxxx")
    assert len(raised) < 1000


def test_an_expired_url_is_requested_again(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path
) -> None:
    kaggle.fail("train.zip", Fault(403), Fault(400))
    competition.fetch("train.zip", target)
    assert kaggle.asked("DownloadDataFile") == 3


def test_the_error_for_rules_that_were_not_accepted_names_the_page(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path
) -> None:
    kaggle.rules_accepted = False
    raised = _error_of(kaggle, competition, target)
    assert f"https://www.kaggle.com/c/{COMPETITION}/rules" in raised
    assert len(kaggle.requests) == 1


def test_an_unknown_competition_is_an_error(kaggle: StandInKaggle, target: Path) -> None:
    competition = KaggleCompetition("carvana", {"token": TOKEN})
    assert "Kaggle has no competition carvana" in _error_of(kaggle, competition, target)


def test_a_response_of_a_proxy_is_an_error(
    kaggle: StandInKaggle, competition: KaggleCompetition, monkeypatch: pytest.MonkeyPatch
) -> None:
    def login_page(handler: _Handler, request: object) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/html")
        handler.send_header("Content-Length", "6")
        handler.end_headers()
        handler.wfile.write(b"<html>")

    monkeypatch.setattr(_Handler, "_ListDataFiles", login_page)
    with pytest.raises(UserError, match="Does a proxy"):
        competition.files()


def test_an_unknown_kaggle_environment_is_an_error(
    monkeypatch: pytest.MonkeyPatch, competition: KaggleCompetition
) -> None:
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "test")
    with pytest.raises(UserError, match="KAGGLE_API_ENVIRONMENT"):
        competition.files()


def test_a_target_that_cannot_be_written_is_an_error(
    kaggle: StandInKaggle, competition: KaggleCompetition, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        competition.fetch("train.zip", tmp_path / "file" / "train.zip")


def test_a_refused_connection_is_an_error(
    port_of_kaggle: None, monkeypatch: pytest.MonkeyPatch, competition: KaggleCompetition, target: Path
) -> None:
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    with pytest.raises(UserError, match="Kaggle cannot be reached: Connection refused, 6 times in a row"):
        competition.fetch("train.zip", target)


def test_a_server_that_does_not_respond_is_an_error(kaggle: StandInKaggle, target: Path) -> None:
    competition = KaggleCompetition(COMPETITION, {"token": TOKEN}, first_wait=0.01, timeout=0.1)
    kaggle.fail("DownloadDataFile", *[Fault(silent_after=0)] * 6)
    assert "no response in time, 6 times in a row" in _error_of(kaggle, competition, target)


def _answer(
    handler: _Handler, chunks: Iterator[bytes], headers: dict[str, str], seconds: float = 0.0
) -> None:
    """Send a response whose body is not what a well-behaved server would send."""
    handler.send_response(200)
    for name, value in {"Connection": "close", "ETag": '"1"', **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    with suppress(OSError):  # the client closes the connection
        for chunk in chunks:
            handler.wfile.write(chunk)
            time.sleep(seconds)
    handler.close_connection = True


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "9000000000"}], ids=["no length", "length"])
def test_more_bytes_than_listed_are_refused_and_removed(
    kaggle: StandInKaggle,
    competition: KaggleCompetition,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
) -> None:
    endless = iter(lambda: b"0" * 65536, None)
    monkeypatch.setattr(_Handler, "do_GET", lambda handler: _answer(handler, endless, headers))
    message = _error_of(kaggle, competition, target)
    assert "sends more bytes for train.zip than Kaggle lists (3.0 MB)" in message
    assert [path.name for path in target.parent.iterdir()] == [".train.zip.lock"]


def test_a_slow_download_is_an_error(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip(handler: _Handler) -> None:
        _answer(handler, iter([b"0"] * 100), {"Content-Length": str(len(CONTENT))}, seconds=0.1)

    monkeypatch.setattr(_Handler, "do_GET", drip)
    message = _error_of(kaggle, competition, target)
    assert "less than 1.0 kB per second arrived, 6 times in a row" in message


def test_progress_that_is_too_slow_does_not_restart_the_count_of_attempts(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**9, 3600))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))  # an hour between two looks at the clock
    kaggle.fail("train.zip", *[Fault(cut_after=100_000)] * 30)
    assert "6 times in a row" in _error_of(kaggle, competition, target)


def test_a_slow_answer_is_an_error(
    kaggle: StandInKaggle, competition: KaggleCompetition, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drip(handler: _Handler, request: object) -> None:
        _answer(handler, iter([b" "] * 100), {"Content-Length": "1000000"}, seconds=0.1)

    monkeypatch.setattr(_Handler, "_ListDataFiles", drip)
    with pytest.raises(UserError, match=r"less than 1\.0 kB per second arrived, 6 times in a row"):
        competition.files()


def test_an_endless_answer_is_an_error(
    kaggle: StandInKaggle, competition: KaggleCompetition, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(handler: _Handler, request: object) -> None:
        _answer(handler, iter(lambda: b" " * 65536, None), {})

    monkeypatch.setattr(_Handler, "_ListDataFiles", endless)
    with pytest.raises(UserError, match=r"the answer is longer than 4\.2 MB, 6 times in a row"):
        competition.files()


def test_a_server_that_never_sends_the_rest_is_an_error(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = iter(range(100_000, 10**9, 100_000))  # each attempt comes further than the one before

    def from_the_beginning(handler: _Handler) -> None:
        kaggle.requests.append("GET")
        _answer(handler, iter([CONTENT[: next(lengths)]]), {"Content-Length": str(len(CONTENT))})

    monkeypatch.setattr(_Handler, "do_GET", from_the_beginning)
    message = _error_of(kaggle, competition, target)
    assert "sent train.zip from the beginning 6 times, instead of its rest" in message
    assert kaggle.asked("GET") == 7


def test_a_server_that_refuses_every_range_is_an_error(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_ranges(handler: _Handler) -> None:
        if handler.headers.get("Range"):
            handler._error(416, None)
        else:
            _answer(handler, iter([CONTENT[:100_000]]), {"Content-Length": str(len(CONTENT))})

    monkeypatch.setattr(_Handler, "do_GET", refuse_ranges)
    assert "from the beginning 6 times" in _error_of(kaggle, competition, target)


def test_a_connection_that_is_cut_after_every_byte_is_an_error(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path
) -> None:
    kaggle.fail("train.zip", *[Fault(cut_after=1)] * 100)
    assert "the connection broke, 6 times in a row" in _error_of(kaggle, competition, target)


def test_redirects_in_a_circle_are_an_error(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def redirect(handler: _Handler) -> None:
        kaggle.requests.append("redirect")
        handler._answer({}, 302, {"Location": handler.path})

    monkeypatch.setattr(_Handler, "do_GET", redirect)
    assert "302 Found" in _error_of(kaggle, competition, target)
    assert kaggle.asked("redirect") < 40


@pytest.mark.parametrize(
    "next_token",
    [lambda asked: "again", lambda asked: str(asked)],
    ids=["the same page", "always another page"],
)
def test_a_list_of_files_that_does_not_end_is_an_error(
    kaggle: StandInKaggle,
    competition: KaggleCompetition,
    monkeypatch: pytest.MonkeyPatch,
    next_token: Callable[[int], str],
) -> None:
    def list_files(handler: _Handler, request: object) -> None:
        token = next_token(kaggle.asked("ListDataFiles"))
        handler._answer({"files": [{"name": "a.zip", "totalBytes": 1}], "nextPageToken": token})

    monkeypatch.setattr(_Handler, "_ListDataFiles", list_files)
    with pytest.raises(UserError, match=f"list of the files of {COMPETITION} does not end"):
        competition.files()
    assert kaggle.asked("ListDataFiles") <= 100


def test_a_file_that_is_not_listed_is_an_error(
    kaggle: StandInKaggle, competition: KaggleCompetition, target: Path
) -> None:
    with pytest.raises(UserError, match=r"has no file other.zip. Available: train.zip, train_masks.zip"):
        competition.fetch("other.zip", target)


def test_given_credentials_take_precedence_over_a_token_in_the_home_folder(
    kaggle: StandInKaggle, competition: KaggleCompetition, tmp_path: Path
) -> None:
    (tmp_path / "home/.kaggle").mkdir(parents=True)
    (tmp_path / "home/.kaggle/access_token").write_text("KGAT_somebody_else")
    assert competition.files()


def test_importing_the_client_prints_nothing(tmp_path: Path) -> None:
    # In a separate process, because only the first import signs in.
    script = (
        "from carvana_kedro.stores.kaggle.credentials import Credentials\n"
        "from carvana_kedro.stores.kaggle.competition import _sign_in\n"
        "_sign_in(Credentials('', token='KGAT_1'), 1)"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE_")}
    for own in ({}, {"KAGGLE_API_TOKEN": "KGAT_2"}):
        environment = {**clean, **own, "HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_client_sends_no_request(kaggle: StandInKaggle, tmp_path: Path) -> None:
    script = (
        "from kagglesdk import kaggle_env\n"
        "kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.PROD] = 'http://localhost:7777'\n"
        "from carvana_kedro.stores.kaggle.credentials import Credentials\n"
        "from carvana_kedro.stores.kaggle.competition import _sign_in\n"
        "_sign_in(Credentials('', token='KGAT_1'), 1)"
    )
    # The client would use this token when it is imported.
    environment = {**os.environ, "HOME": str(tmp_path), "KAGGLE_API_TOKEN": "KGAT_2"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert kaggle.requests == []


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    (tmp_path / "submit.csv.gz").write_bytes(b"masks" * 1000)
    return tmp_path / "submit.csv.gz"


def test_a_submission_is_uploaded(
    kaggle: StandInKaggle, competition: KaggleCompetition, submission: Path
) -> None:
    reference = competition.submit(submission, "a message")
    (listed,) = competition.submissions()
    assert (listed.reference, listed.description, listed.status) == (reference, "a message", "pending")
    assert kaggle.submissions[0]["content"] == submission.read_bytes()


@pytest.mark.parametrize("name", ["StartSubmissionUpload", "upload", "CreateSubmission"])
def test_a_failed_upload_is_retried(
    kaggle: StandInKaggle, competition: KaggleCompetition, submission: Path, name: str
) -> None:
    kaggle.fail(name, Fault(503), Fault(503))
    competition.submit(submission, "a message")
    assert len(kaggle.submissions) == 1


def test_a_broken_upload_is_retried(
    kaggle: StandInKaggle, competition: KaggleCompetition, submission: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kaggle.fail("upload", Fault(), Fault(silent_after=0))
    competition.submit(submission, "a message")
    assert len(kaggle.submissions) == 1
    assert "/upload/" not in caplog.text  # on Kaggle, this URL contains a signature


def test_a_lost_confirmation_does_not_submit_twice(
    kaggle: StandInKaggle, competition: KaggleCompetition, submission: Path
) -> None:
    kaggle.fail("confirmation", Fault())
    kaggle.lists_late, kaggle.polls_until_scored = 2, 99
    assert competition.submit(submission, "a message") == 1000
    assert len(kaggle.submissions) == 1


def test_a_submission_that_may_have_arrived_is_not_repeated(
    kaggle: StandInKaggle, competition: KaggleCompetition, submission: Path
) -> None:
    kaggle.fail("confirmation", Fault())
    kaggle.lists_late = 99
    with pytest.raises(UserError, match="It may have arrived: see https"):
        competition.submit(submission, "a message")
    assert len(kaggle.submissions) == 1


def test_a_source_without_a_competition_accepts_no_submission(submission: Path) -> None:
    with pytest.raises(UserError, match="does not belong to a competition on Kaggle"):
        KaggleCompetition(None).submit(submission, "a message")
