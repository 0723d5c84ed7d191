"""The writer of TensorBoard's event files."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from carvana_kedro.stores.faults import explain

logger = logging.getLogger(__name__)


class EventWriter:
    """Writes the events of a training run. A full disk or another fault of the machine does not stop the training.

    The first fault is logged as a warning, and nothing more is written.

    TensorBoard draws curves in one chart if they have the same tag and are of different runs. A run is a folder. So
    each side of the split has a subfolder, for the curves that both have.

    Attributes:
        run: The `SummaryWriter` of the run.
        train: That of its subfolder `train`.
        validation: That of its subfolder `validation`.

    Args:
        folder: Folder of the run.
        purge_step: Events of this step and later ones that earlier writers left are hidden. If it is 1, their files are
            removed.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """Store the arguments."""
        self._folder = folder
        self._purge_step = purge_step
        self._working = True
        self.run, self.train, self.validation = self._writers = tuple(
            _Writer(folder / side, self._attempt) for side in ("", "train", "validation")
        )

    def flush(self) -> None:
        """Write everything to the files."""
        for writer in self._writers:
            writer.flush()

    def __enter__(self) -> Self:
        """Create the files."""
        # Python would print a traceback of TensorBoard's thread. The next call raises the same error.
        self._excepthook, threading.excepthook = threading.excepthook, self._ignore_faults
        for writer in self._writers:
            self._attempt(lambda writer=writer: writer.open(self._purge_step))  # type: ignore[misc]
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        for writer in self._writers:
            writer.close()
        threading.excepthook = self._excepthook

    def _attempt(self, action: Callable[[], object]) -> None:
        if self._working:
            try:
                action()
            except OSError as error:
                self._working = False
                logger.warning(
                    "TensorBoard shows no more of this run: its files in %s cannot be written. %s Training continues.",
                    self._folder,
                    explain(error) or error,
                )

    def _ignore_faults(self, event: threading.ExceptHookArgs) -> None:
        in_tensorboard = type(event.thread).__module__.startswith("tensorboard.")
        if not (in_tensorboard and isinstance(event.exc_value, OSError)):
            self._excepthook(event)


class _Writer:
    """A `SummaryWriter` whose methods do nothing after a fault.

    Args:
        folder: Folder of the file.
        attempt: Does something, unless there was a fault.
    """

    _writer: SummaryWriter

    def __init__(self, folder: Path, attempt: Callable[[Callable[[], object]], None]) -> None:
        self._folder = folder
        self._attempt = attempt

    def open(self, purge_step: int | None) -> None:
        """Create the file, and remove those of earlier writers if nothing of them is left."""
        if purge_step == 1:
            for file in self._folder.glob("events.out.tfevents.*"):
                with suppress(OSError):  # the purge hides what is left
                    file.unlink()
        self._writer = SummaryWriter(self._folder, purge_step=purge_step)

    def add_summary(self, summary: object) -> None:
        """Write a summary."""
        self._attempt(lambda: self._writer._get_file_writer().add_summary(summary))

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **options: self._attempt(
            lambda: getattr(self._writer, name)(*arguments, **options)
        )
