"""Client of a Kaggle competition: downloads that resume after failures, and submissions."""

import io
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import requests
import urllib3
from tqdm import tqdm

from carvana_kedro.errors import UserError, shown
from carvana_kedro.stores.kaggle.connection import CHUNK, MIN_SPEED, set_bounds
from carvana_kedro.stores.kaggle.credentials import SETTINGS_PAGE, Credentials, find_credentials
from carvana_kedro.stores.kaggle.download import Download
from carvana_kedro.stores.locks import locked
from carvana_kedro.stores.machine import format_size

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 6
_MAX_WAIT = 600.0  # seconds
_MAX_PAGES = 100
_MAX_REASON = 500  # characters of an answer that are shown
_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})

Result = TypeVar("Result")


@dataclass(frozen=True)
class ListedSubmission:
    """A submission in Kaggle's list. Scores are text as Kaggle returns them, and empty before the scoring."""

    reference: int
    description: str
    status: Literal["pending", "complete", "error"]
    public_score: str
    private_score: str
    problem: str


class KaggleCompetition:
    """A competition on Kaggle, accessed through Kaggle's own client.

    Construction imports and reads nothing and sends no request. Transient failures (429, 5xx, dropped or silent
    connections) are retried after increasing waits, or after the wait that Kaggle asks for. The count of attempts
    restarts when a download has made progress, at 1 kB per second or more.

    Args:
        name: name in the competition's URL. None: the source does not belong to a competition.
        credentials: entry `kaggle` of `credentials.yml`, see `find_credentials`.
        first_wait: seconds before the second attempt. It doubles with each attempt.
        timeout: seconds without data, or with less than 1 kB per second, after which a connection counts as broken.
    """

    def __init__(
        self,
        name: str | None,
        credentials: Mapping[str, str] | None = None,
        first_wait: float = 1.0,
        timeout: float = 60.0,
    ) -> None:
        self.name = name
        self.page = f"https://www.kaggle.com/c/{name}/submissions" if name else "no competition"
        self._configured = dict(credentials or {})
        self._first_wait = first_wait
        self._timeout = timeout

    def files(self) -> dict[str, int]:
        """Return the names of the competition's files with their sizes in bytes.

        Raises:
            UserError: Kaggle cannot be reached, or rejects the request. The methods below raise it too.
        """
        sizes: dict[str, int] = {}
        token = ""
        tokens = {token}
        while len(tokens) <= _MAX_PAGES:
            answer = self._retry(
                lambda: self._api.competition_list_files(self.name, page_token=token, page_size=200)  # noqa: B023
            )
            sizes |= {file.name: file.total_bytes for file in answer.files}
            token = answer.next_page_token
            if not token:
                return sizes
            if token in tokens:
                break
            tokens.add(token)
        raise UserError(
            f"Kaggle's list of the files of {self.name} does not end: page {len(tokens) + 1} is asked for again or is "
            "one too many. Run again later, or put the files into the source's folder yourself."
        )

    def sizes(self, names: Sequence[str]) -> list[int]:
        """Return the sizes of some files in bytes.

        Raises:
            UserError: the competition does not have one of them.
        """
        sizes = self.files()
        for name in names:
            if name not in sizes:
                raise UserError(
                    f"The competition {self.name} on Kaggle has no file {name}. "
                    f"Available: {shown(', '.join(sorted(sizes))) or 'none'}."
                )
        return [sizes[name] for name in names]

    def fetch(self, name: str, target: Path) -> None:
        """Fetch one file. A part that an earlier call fetched is not fetched again.

        `<target>.json` is the manifest of the file: size, SHA-256 and version.
        """
        try:
            with locked(target):
                if target.is_file():
                    return
                download = Download(target, self._timeout)
                logger.info("Downloading %s from Kaggle%s", name, download.describe())
                if not download.complete:
                    (listed,) = self.sizes([name])
                    self._retry(
                        lambda: self._transfer(name, download, listed), progress=lambda: download.have
                    )
                download.finish()
        except OSError as error:
            raise UserError(
                f"{target} cannot be written ({error.strerror}). Fix this and run again. The part that is already "
                "downloaded is kept."
            ) from error

    def submit(self, file: Path, message: str) -> int:
        """Upload a submission and return its reference.

        The message should be unique: it identifies the submission in Kaggle's list if the confirmation was lost.
        """

        def upload() -> int:
            self._api.uploaded = False
            try:
                answer = self._api.competition_submit(str(file), message, self.name, quiet=True)
                return answer.ref or self._reference(message)
            except requests.RequestException as error:
                if not self._api.uploaded or not _is_transient(error) or _status(error) == 429:
                    raise
                # Kaggle may have accepted the submission. Its list may show it only after a while.
                for wait in (1, 2, 4, 8):
                    if reference := self._reference(message):
                        return reference
                    time.sleep(self._first_wait * wait)
                if _status(error):
                    raise
                raise UserError(
                    "The connection broke before Kaggle confirmed the submission. It may have arrived: see "
                    f"{self.page}, or run again in a few minutes. A submission that arrived is not uploaded again."
                ) from error

        logger.info("Uploading %s (%s)", file, format_size(file.stat().st_size))
        return self._retry(upload)

    def submissions(self) -> list[ListedSubmission]:
        """Return the latest submissions of the account, newest first."""
        listed = self._retry(lambda: self._api.competition_submissions(self.name, page_size=50))
        return [
            ListedSubmission(
                entry.ref,
                entry.description,
                entry.status.name.lower(),
                shown(entry.public_score),
                shown(entry.private_score),
                shown(entry.error_description),
            )
            for entry in listed or ()
        ]

    def _reference(self, message: str) -> int:
        listed = (entry for entry in self.submissions() if entry.status != "error")
        return next((entry.reference for entry in listed if entry.description == message), 0)

    @cached_property
    def _credentials(self) -> Credentials:
        return find_credentials(self._configured)

    @cached_property
    def _api(self) -> "KaggleApi":
        if self.name is None:
            raise UserError(
                "This source does not belong to a competition on Kaggle, so nothing can be submitted. Use --env kaggle "
                "or source=archives. To check the file only: --params submission.dry_run=true"
            )
        return _sign_in(self._credentials, self._timeout)

    def _transfer(self, name: str, download: Download, listed: int) -> None:
        from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFileRequest

        request = ApiDownloadDataFileRequest()
        request.competition_name, request.file_name = self.name, name
        with self._api.build_kaggle_client() as client:
            # Kaggle redirects to the storage of the file. requests sends these headers there too.
            client.http_client()._session.headers.update(download.headers())
            try:
                response = client.competitions.competition_api_client.download_data_file(request)
            except requests.HTTPError as error:
                if _status(error) == requests.codes.requested_range_not_satisfiable:
                    download.discard()
                    raise requests.ConnectionError("the file has changed on the server") from error
                raise
            with response:
                download.receive(response, listed)

    def _retry(self, call: Callable[[], Result], progress: Callable[[], int] = lambda: 0) -> Result:
        """Call until there is no transient failure, at most `_MAX_ATTEMPTS` times without progress.

        Args:
            call: sends requests to Kaggle.
            progress: returns the number of bytes received. A failure after one more chunk counts as the first failure,
                unless the bytes arrived at less than `MIN_SPEED`.
        """
        failures, reached, renewed, since = 0, progress(), False, time.monotonic()
        while True:
            try:
                return call()
            except requests.RequestException as error:
                if _status(error) == 401 and self._credentials.expires and not renewed:
                    renewed = True
                    del self._api
                    continue
                least = max(CHUNK, MIN_SPEED * (time.monotonic() - since))
                if progress() >= reached + least:
                    failures, reached, since = 0, progress(), time.monotonic()
                reached = min(reached, progress())
                failures += 1
                wait = _retry_after(error) or self._first_wait * 2 ** (failures - 1)
                if not _is_transient(error) or failures == _MAX_ATTEMPTS or wait > _MAX_WAIT:
                    raise UserError(self._explain(error, failures)) from error
                logger.warning(
                    "%s. Retrying in %.0f s (%d of %d)", _summarize(error), wait, failures, _MAX_ATTEMPTS - 1
                )
                time.sleep(wait)
            except ValueError as error:
                raise UserError(
                    "Kaggle's response is not in the expected format. Does a proxy of your network require a login?"
                ) from error

    def _explain(self, error: requests.RequestException, failures: int) -> str:
        status = _status(error)
        if status == 401 and not _is_transient(error):
            return (
                f"Kaggle does not accept the credentials from {self._credentials.where} (401). They may be wrong or "
                f"expired. Create new ones at {SETTINGS_PAGE}"
            )
        if status == 403 and not _is_transient(error):
            return (
                f"Kaggle does not give this account access to the competition {self.name} ({_summarize(error)}). "
                f"Accept its rules first: https://www.kaggle.com/c/{self.name}/rules"
            )
        if status == 404:
            return (
                f"Kaggle has no competition {self.name}, or it does not have the requested file (404). The name of the "
                "competition is set in globals.yml: kaggle.competition"
            )
        if not _is_transient(error):
            return f"Kaggle rejects the request: {_summarize(error)}."
        wait = _retry_after(error)
        if wait and wait > _MAX_WAIT:
            return (
                f"Kaggle asks to wait {wait / 60:.0f} minutes ({_summarize(error)}). Run again after that: files that "
                "are already downloaded are kept."
            )
        problem = "Kaggle cannot be reached" if status is None else "Kaggle is unavailable"
        return (
            f"{problem}: {_summarize(error)}, {failures} times in a row. Run again later: files that are already "
            "downloaded are kept."
        )


def _sign_in(credentials: Credentials, timeout: float) -> "KaggleApi":
    from kagglesdk.kaggle_client import KaggleClient
    from kagglesdk.kaggle_env import get_env
    from kagglesdk.kaggle_http_client import KaggleHttpClient

    _import_quietly(KaggleHttpClient)
    from kaggle.api.kaggle_api_extended import KaggleApi, ResumableUploadResult

    try:
        environment = get_env()
    except Exception as error:  # get_env raises this class itself
        raise UserError(f"{error}. Unset KAGGLE_API_ENVIRONMENT to use Kaggle itself.") from error

    class Api(KaggleApi):
        uploaded = False

        def upload_complete(self, path: str, url: str, quiet: bool, resume: bool = False) -> Any:
            """Upload a file. Kaggle's own method has no timeout, and logs the URL, which contains a signature."""
            with requests.Session() as session, Path(path).open("rb") as file:
                set_bounds(session, timeout)
                size = os.fstat(file.fileno()).st_size
                with tqdm.wrapattr(
                    file, "read", total=size, desc="Uploading", leave=False, disable=None
                ) as content:
                    session.put(url, data=content).raise_for_status()
            self.uploaded = True
            return ResumableUploadResult.COMPLETE

        def build_kaggle_client(self) -> KaggleClient:
            """Return a client with a timeout and these credentials, for KAGGLE_API_ENVIRONMENT."""
            token = credentials.token or self.config_values.get(self.CONFIG_NAME_TOKEN)
            client = KaggleClient(env=environment, user_agent="carvana-kedro")
            http = client.http_client()
            http._init_session()
            # By default, the client prefers a token in the user's folder to the given name and key.
            http._session.auth = (
                KaggleHttpClient.BearerAuth(token) if token else (credentials.username, credentials.key)
            )
            set_bounds(http._session, timeout)
            return client

    api = Api()
    if credentials.expires:
        try:
            with redirect_stdout(io.StringIO()):
                api.authenticate()  # uses the tokens that `kaggle auth login` stored
        except SystemExit as error:
            raise UserError(
                f"Kaggle does not accept the tokens in {credentials.where}. Sign in again: kaggle auth login"
            ) from error
    return api


def _import_quietly(http_client: Any) -> None:
    """Import Kaggle's client without requests and output.

    On import, the client signs in with any credentials that it finds, without a timeout. Without credentials, it prints
    advice.
    """

    def block(*arguments: object) -> None:
        raise ConnectionError("requests are blocked while the client is imported")

    call, http_client.call = http_client.call, block
    try:
        with redirect_stdout(io.StringIO()):
            import kaggle  # noqa: F401
    except OSError as error:
        raise UserError(
            f"Kaggle's client cannot create its settings folder ({error}). Set another one: KAGGLE_CONFIG_DIR=PATH"
        ) from error
    finally:
        http_client.call = call


def _status(error: requests.RequestException) -> int | None:
    return error.response.status_code if error.response is not None else None


def _is_transient(error: requests.RequestException) -> bool:
    """Return whether the next attempt may succeed."""
    if error.response is not None:
        # Requests to Kaggle itself are POST. The URLs of the file storage, for GET and PUT, expire.
        expired = error.response.request.method != "POST" and error.response.status_code in (400, 401, 403)
        return expired or error.response.status_code in _TRANSIENT_STATUS
    return isinstance(
        error, (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    )


def _retry_after(error: requests.RequestException) -> float | None:
    """Return the seconds to wait from the header Retry-After: a number or a date (RFC 9110, 10.2.3)."""
    value = error.response.headers.get("Retry-After", "") if error.response is not None else ""
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _summarize(error: requests.RequestException) -> str:
    """Return a short text without URLs, which may contain signatures."""
    if error.response is not None:
        try:
            reason = error.response.json()["message"]
        except (ValueError, KeyError, TypeError):
            reason = error.response.reason
        return f"{error.response.status_code} {shown(str(reason))[:_MAX_REASON]}".rstrip(".")
    causes = list(_exception_chain(error))
    if len(causes) == 1:
        return str(error)
    for cause in causes:  # messages of the operating system are the clearest
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    if any(isinstance(cause, requests.Timeout | urllib3.exceptions.TimeoutError) for cause in causes):
        return "no response in time"
    return "the connection broke"


def _exception_chain(error: BaseException) -> Iterator[BaseException]:
    yield error
    for inner in (*error.args, getattr(error, "reason", None), error.__cause__ or error.__context__):
        if isinstance(inner, BaseException):
            yield from _exception_chain(inner)
