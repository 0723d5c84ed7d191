"""Kaggle's side: what a competition holds, fetched so that a bad line costs time and nothing else."""

import io
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import requests
import urllib3
from requests.adapters import HTTPAdapter
from tqdm import tqdm

from carvana_kedro.errors import UserError
from carvana_kedro.stores.kaggle.credentials import SETTINGS_PAGE, Credentials, find_credentials
from carvana_kedro.stores.kaggle.download import CHUNK, Download
from carvana_kedro.stores.locks import locked
from carvana_kedro.stores.machine import format_size

if TYPE_CHECKING:
    from kaggle.api.kaggle_api_extended import KaggleApi

logger = logging.getLogger(__name__)

_TRIES = 6
_LONGEST_WAIT = 600.0
_PASSING = frozenset({408, 429, 500, 502, 503, 504})

Result = TypeVar("Result")


@dataclass(frozen=True)
class Listed:
    """A submission as Kaggle lists it; scores are Kaggle's own text, empty until there is one."""

    reference: int
    description: str
    status: Literal["pending", "complete", "error"]
    public_score: str
    private_score: str
    problem: str


class KaggleCompetition:
    """One of Kaggle's competitions, asked through Kaggle's own client.

    Nothing is imported, read or asked at construction. What fails in passing (429, 5xx, a dropped or silent
    connection) is tried again after growing waits, or after as long as Kaggle says; the count of tries begins anew
    whenever something has come through.

    Args:
        name: as in the competition's address; None for a source that is no competition.
        credentials: the entry `kaggle` of `credentials.yml`, see `find_credentials`.
        first_wait: seconds before the second try; it doubles from try to try.
        timeout: seconds of silence after which a connection counts as broken.
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
        """Return the names of the competition's files, and their sizes in bytes.

        Raises:
            UserError: Kaggle cannot be asked, or does not want to answer; so does everything below.
        """
        sizes: dict[str, int] = {}
        token = ""
        while True:
            answer = self._patiently(
                lambda: self._api.competition_list_files(self.name, page_token=token, page_size=200)  # noqa: B023
            )
            sizes |= {file.name: file.total_bytes for file in answer.files}
            token = answer.next_page_token
            if not token:
                return sizes

    def fetch(self, name: str, target: Path) -> None:
        """Fetch one file; what an earlier call has already fetched of it is not fetched again.

        `<target>.json` is its manifest: size, SHA-256 and version.
        """
        try:
            with locked(target):
                if target.is_file():
                    return
                download = Download(target)
                logger.info("Fetching %s from Kaggle%s", name, download.spelled())
                if not download.complete:
                    self._patiently(lambda: self._transfer(name, download), progress=lambda: download.have)
                download.finish()
        except OSError as error:
            raise UserError(
                f"{target} cannot be written ({error.strerror}). What has been fetched stays where it is: put that "
                "right and run again."
            ) from error

    def submit(self, file: Path, message: str) -> int:
        """Upload a submission and return its reference.

        The message should be the submission's own: it tells whether one got through whose confirmation was lost.
        """

        def upload() -> int:
            self._api.uploaded = False
            try:
                answer = self._api.competition_submit(str(file), message, self.name, quiet=True)
                return answer.ref or self._reference(message)
            except requests.RequestException as error:
                if not self._api.uploaded or not _passes(error) or _status(error) == 429:
                    raise
                # Handed in or not? Kaggle's list may take a while to show it.
                for wait in (1, 2, 4, 8):
                    if reference := self._reference(message):
                        return reference
                    time.sleep(self._first_wait * wait)
                if _status(error):
                    raise
                raise UserError(
                    "The connection broke while Kaggle was to confirm the submission. It may have arrived: see "
                    f"{self.page}, or run again in a few minutes. What has arrived is not uploaded again."
                ) from error

        logger.info("Uploading %s (%s)", file, format_size(file.stat().st_size))
        return self._patiently(upload)

    def submissions(self) -> list[Listed]:
        """Return the account's latest submissions, newest first."""
        listed = self._patiently(lambda: self._api.competition_submissions(self.name, page_size=50))
        return [
            Listed(
                entry.ref,
                entry.description,
                entry.status.name.lower(),
                entry.public_score,
                entry.private_score,
                entry.error_description,
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
                "This source is no competition on Kaggle, so nothing can be submitted: that takes --env kaggle, or "
                "source=archives. To check the file alone: --params submission.dry_run=true"
            )
        return _sign_in(self._credentials, self._timeout)

    def _transfer(self, name: str, download: Download) -> None:
        from kagglesdk.competitions.types.competition_api_service import ApiDownloadDataFileRequest

        request = ApiDownloadDataFileRequest()
        request.competition_name, request.file_name = self.name, name
        with self._api.build_kaggle_client() as client:
            # Kaggle redirects to where the file lies; requests takes these along.
            client.http_client()._session.headers.update(download.headers())
            try:
                response = client.competitions.competition_api_client.download_data_file(request)
            except requests.HTTPError as error:
                if _status(error) == requests.codes.requested_range_not_satisfiable:
                    download.forget()
                    raise requests.ConnectionError("the file has changed on the server") from error
                raise
            with response:
                download.receive(response)

    def _patiently(self, call: Callable[[], Result], progress: Callable[[], int] = lambda: 0) -> Result:
        """Call until it works, as often as it makes sense.

        Args:
            call: asks Kaggle.
            progress: tells how far it has come: a failure after at least a chunk more counts as the first.
        """
        failures, reached, renewed = 0, progress(), False
        while True:
            try:
                return call()
            except requests.RequestException as error:
                if _status(error) == 401 and self._credentials.expires and not renewed:
                    renewed = True
                    del self._api
                    continue
                if progress() >= reached + CHUNK:
                    failures, reached = 0, progress()
                reached = min(reached, progress())
                failures += 1
                wait = _asked_wait(error) or self._first_wait * 2 ** (failures - 1)
                if not _passes(error) or failures == _TRIES or wait > _LONGEST_WAIT:
                    raise UserError(self._explain(error, failures)) from error
                logger.warning(
                    "%s. Trying again in %.0f s (%d of %d)", _said(error), wait, failures, _TRIES - 1
                )
                time.sleep(wait)
            except ValueError as error:
                raise UserError(
                    "Kaggle's answer cannot be understood. Is there a proxy that wants a login first?"
                ) from error

    def _explain(self, error: requests.RequestException, failures: int) -> str:
        status = _status(error)
        if status == 401 and not _passes(error):
            return (
                f"Kaggle does not accept the credentials from {self._credentials.where} (401). They may be wrong or "
                f"have expired: make new ones at {SETTINGS_PAGE}"
            )
        if status == 403 and not _passes(error):
            return (
                f"Kaggle does not let this account into the competition {self.name} ({_said(error)}). Its rules must "
                f"be accepted first, once: https://www.kaggle.com/c/{self.name}/rules"
            )
        if status == 404:
            return (
                f"Kaggle knows no competition {self.name}, or not the file that was asked for (404). The name stands "
                "in globals.yml: kaggle.competition"
            )
        if not _passes(error):
            return f"Kaggle refuses: {_said(error)}."
        wait = _asked_wait(error)
        if wait and wait > _LONGEST_WAIT:
            minutes = f"{wait / 60:.0f} minutes"
            return f"Kaggle asks to come back in {minutes} ({_said(error)}). Nothing is lost: run again then."
        problem = "Kaggle cannot be reached" if status is None else "Kaggle is out of order"
        return (
            f"{problem}: {_said(error)}, {failures} times in a row. What has been fetched stays where it is: run again "
            "later, and it goes on from there."
        )


def _sign_in(credentials: Credentials, timeout: float) -> "KaggleApi":
    from kagglesdk.kaggle_client import KaggleClient
    from kagglesdk.kaggle_env import get_env
    from kagglesdk.kaggle_http_client import KaggleHttpClient

    _import_quietly(KaggleHttpClient)
    from kaggle.api.kaggle_api_extended import KaggleApi, ResumableUploadResult

    try:
        environment = get_env()
    except Exception as error:  # it raises no other
        raise UserError(f"{error}. Leave KAGGLE_API_ENVIRONMENT unset to ask Kaggle itself.") from error

    class Api(KaggleApi):
        uploaded = False

        def upload_complete(self, path: str, url: str, quiet: bool, resume: bool = False) -> Any:
            """Upload a file. The client's own way has no timeout, and logs the address, which carries a signature."""
            with requests.Session() as session, Path(path).open("rb") as file:
                _mount(session, timeout)
                size = os.fstat(file.fileno()).st_size
                with tqdm.wrapattr(
                    file, "read", total=size, desc="Uploading", leave=False, disable=None
                ) as content:
                    session.put(url, data=content).raise_for_status()
            self.uploaded = True
            return ResumableUploadResult.COMPLETE

        def build_kaggle_client(self) -> KaggleClient:
            """Return a client that is not silent for ever, uses our credentials, and heeds KAGGLE_API_ENVIRONMENT."""
            token = credentials.token or self.config_values.get(self.CONFIG_NAME_TOKEN)
            client = KaggleClient(env=environment, user_agent="carvana-kedro")
            http = client.http_client()
            http._init_session()
            # Left alone it prefers a token that lies in the user's folder to the name and key that it was given.
            http._session.auth = (
                KaggleHttpClient.BearerAuth(token) if token else (credentials.username, credentials.key)
            )
            _mount(http._session, timeout)
            return client

    api = Api()
    if credentials.expires:
        try:
            with redirect_stdout(io.StringIO()):
                api.authenticate()  # with what `kaggle auth login` has left
        except SystemExit as error:
            raise UserError(
                f"Kaggle does not accept {credentials.where}. Sign in again: kaggle auth login"
            ) from error
    return api


def _import_quietly(http_client: Any) -> None:
    """Import Kaggle's client without what it does when it is imported.

    It signs in on Kaggle with whatever it finds, without a timeout, and prints advice if it finds nothing.
    """

    def refuse(*arguments: object) -> None:
        raise ConnectionError("nothing is asked while the client is imported")

    call, http_client.call = http_client.call, refuse
    try:
        with redirect_stdout(io.StringIO()):
            import kaggle  # noqa: F401
    except OSError as error:
        raise UserError(
            f"Kaggle's client cannot make its folder for settings ({error}). Name one: KAGGLE_CONFIG_DIR=PATH"
        ) from error
    finally:
        http_client.call = call


def _mount(session: requests.Session, timeout: float) -> None:
    for scheme in ("https://", "http://"):
        session.mount(scheme, _Impatient(timeout))


class _Impatient(HTTPAdapter):
    """Gives every request a timeout: Kaggle's client waits for ever."""

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        options["timeout"] = options.get("timeout") or self._timeout
        return super().send(request, *arguments, **options)


def _status(error: requests.RequestException) -> int | None:
    return error.response.status_code if error.response is not None else None


def _passes(error: requests.RequestException) -> bool:
    """Tell whether it may work the next time."""
    if error.response is not None:
        # Kaggle itself is asked by POST. Files come from and go to other places, at addresses that expire.
        expired = error.response.request.method != "POST" and error.response.status_code in (400, 401, 403)
        return expired or error.response.status_code in _PASSING
    return isinstance(
        error, (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    )


def _asked_wait(error: requests.RequestException) -> float | None:
    """Return the seconds that Kaggle asks to wait: its header gives these or a date (RFC 9110, 10.2.3)."""
    asked = error.response.headers.get("Retry-After", "") if error.response is not None else ""
    if asked.isdecimal():
        return float(asked)
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _said(error: requests.RequestException) -> str:
    """Return what happened in a few words, without addresses: they carry signatures."""
    if error.response is not None:
        try:
            reason = error.response.json()["message"]
        except (ValueError, KeyError, TypeError):
            reason = error.response.reason
        return f"{error.response.status_code} {reason}".rstrip(".")
    causes = list(_causes(error))
    if len(causes) == 1:
        return str(error)
    for cause in causes:  # what the system says is the plainest
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    if any(isinstance(cause, requests.Timeout | urllib3.exceptions.TimeoutError) for cause in causes):
        return "no answer in time"
    return "the connection broke"


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    for inner in (*error.args, getattr(error, "reason", None), error.__cause__ or error.__context__):
        if isinstance(inner, BaseException):
            yield from _causes(inner)
