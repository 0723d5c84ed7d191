import io
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from carvana_kedro.errors import UserError
from carvana_kedro.segmentation.monitoring import progress
from carvana_kedro.segmentation.monitoring.checkpoint_saver import CheckpointSaver
from carvana_kedro.segmentation.monitoring.progress import ProgressBar
from carvana_kedro.segmentation.training.callbacks import Callback, load_callback
from carvana_kedro.segmentation.training.interrupts import TrainingInterruptedError
from carvana_kedro.segmentation.training.loop import train
from carvana_kedro.segmentation.training.losses import segmentation_loss
from carvana_kedro.segmentation.training.state import Progress
from carvana_kedro.stores.checkpoints import CheckpointStore
from carvana_kedro.stores.folders import DiskFolder

Setup = Callable[..., tuple]

MODULE = """
from carvana_kedro.segmentation.training.callbacks import Callback

class Mine(Callback):
    def __init__(self, often=1):
        self.often = often

def build(often):
    return Mine(often)

class Stranger:
    pass

plain = 5
"""


class Saved:
    """Replaces `RunCheckpoints`; records what was saved."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.newest: dict[str, Mapping[str, Any]] = {}

    def save(self, series: str, step: int, content: Mapping[str, Any]) -> None:
        self.calls.append((series, step))
        self.newest[series] = content


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path. Modules imported from it are removed from `sys.modules` afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "our_callbacks.py").write_text(MODULE)
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "often"),
    [
        ("our_callbacks.Mine", 1),
        ({"type": "our_callbacks.Mine", "often": 3}, 3),
        ({"type": "our_callbacks.build", "often": 4}, 4),
    ],
)
def test_callbacks_are_loaded_by_their_dotted_paths(
    modules: Path, spec: str | dict[str, Any], often: int
) -> None:
    assert load_callback(spec).often == often  # type: ignore[attr-defined]
    assert not isinstance(spec, dict) or "type" in spec


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("Mine", r"Mine cannot be loaded: Python finds no module Mine\."),
        ("no_such.Mine", r"no_such\.Mine cannot be loaded: Python finds no module no_such\."),
        ("our_callbacks.deep.Mine", r"Python finds no module our_callbacks\.deep\."),
        ("our_callbacks.Thine", r"Thine cannot be loaded: the module our_callbacks does not define Thine\."),
        (
            {"type": "our_callbacks.Mine", "seldom": 1},
            r"Mine cannot be called with {'seldom': 1}: .*'seldom'",
        ),
        ("our_callbacks.build", r"build cannot be called with no arguments: .*'often'"),
        ("our_callbacks.plain", r"plain cannot be called with no arguments: 5 is not a callable object"),
        (
            "our_callbacks.Stranger",
            r"our_callbacks\.Stranger creates a Stranger, which is not a valid callback",
        ),
        ({"often": 3}, r"The callback {'often': 3} has no type"),
    ],
)
def test_the_error_says_why_a_callback_cannot_be_loaded(
    modules: Path, spec: str | dict[str, Any], why: str
) -> None:
    with pytest.raises(UserError, match=why):
        load_callback(spec)


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("import sys; sys.no_such", "AttributeError: module 'sys' has no attribute 'no_such'"),
        ("def broken(:", "SyntaxError: "),
    ],
)
def test_the_error_shows_what_the_module_raised(modules: Path, code: str, raised: str) -> None:
    (modules / "faulty.py").write_text(code)
    with pytest.raises(UserError) as caught:
        load_callback("faulty.Mine")
    assert f"faulty.Mine cannot be loaded: importing faulty raised {raised}" in str(caught.value)


def test_an_improved_model_is_saved_before_the_state(setup: Setup) -> None:
    run, *batches = setup(epochs=3)
    run.best_by = "images"

    class Score(Callback):
        def on_epoch_end(self, run: Any) -> None:
            run.history[-1]["images"] = (5, 4, 6)[len(run.history) - 1]

    saved = Saved()
    train(run, *batches, [Score(), CheckpointSaver(saved, minutes=1e9)])
    assert saved.calls == [("best", 3), ("last", 3), ("last", 6), ("best", 9), ("last", 9)]
    assert set(saved.newest["best"]) == {"model", "history", "about"}
    assert len(saved.newest["best"]["history"]) == 3
    assert torch.equal(
        saved.newest["best"]["model"]["weights"]["head.weight"], run.network.state_dict()["head.weight"]
    )
    assert saved.newest["last"].keys() == run.state().keys()


def test_the_state_is_saved_within_an_epoch_when_it_is_due(setup: Setup) -> None:
    saved = Saved()
    train(*setup(epochs=1), [CheckpointSaver(saved, minutes=0)])
    assert saved.calls == [("last", 1), ("last", 2), ("last", 3), ("best", 3), ("last", 3)]


def test_minutes_are_counted_from_the_last_checkpoint(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    run, *batches = setup(epochs=2)
    # Half a minute passes with every step.
    monkeypatch.setattr(
        "carvana_kedro.segmentation.monitoring.checkpoint_saver.time.monotonic", lambda: 30.0 * run.steps
    )
    saved = Saved()
    train(run, *batches, [CheckpointSaver(saved, minutes=1)])
    assert [step for series, step in saved.calls if series == "last"] == [2, 3, 5, 6]


def test_an_interrupted_run_is_saved(setup: Setup) -> None:
    run, *batches = setup(epochs=1)
    run.interrupted = lambda: run.steps == 2
    saved = Saved()
    with pytest.raises(TrainingInterruptedError):
        train(run, *batches, [CheckpointSaver(saved, minutes=1e9)])
    assert saved.calls == [("last", 2)]
    assert saved.newest["last"]["progress"]["steps"] == 2


def test_the_batch_of_a_skipped_step_is_saved_for_debugging(setup: Setup, tmp_path: Path) -> None:
    run, *batches = setup(epochs=1)
    seen: list[Any] = []

    class Watch(Callback):
        def on_step_end(self, run: Any, step: Any) -> None:
            seen.append(step)

    def poisoned(logits: Tensor, targets: Tensor) -> Tensor:
        return segmentation_loss(logits, targets) * (math.inf if len(seen) == 1 else 1.0)

    checkpoints = CheckpointStore(DiskFolder(tmp_path)).run("run")
    train(replace(run, loss=poisoned), *batches, [Watch(), CheckpointSaver(checkpoints, minutes=1e9)])
    skipped = checkpoints.newest("skipped")
    assert skipped is not None
    assert (tmp_path / "run" / "skipped-000000002.pt").is_file()
    assert skipped["image_ids"] == list(seen[1].image_ids)
    assert skipped["loss"] == math.inf and not math.isfinite(skipped["gradient_norm"])
    assert skipped["images"].dtype == skipped["targets"].dtype == torch.uint8
    assert torch.allclose(skipped["images"] / 255, seen[1].images, atol=0.002)
    assert torch.allclose(skipped["targets"] / 255, seen[1].targets, atol=0.002)
    assert skipped["network"].keys() == run.network.state_dict().keys()


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == progress.__name__]


def test_every_epoch_logs_a_row_of_a_table(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    run, *batches = setup(epochs=2)

    class Measure(Callback):
        def on_epoch_end(self, run: Any) -> None:
            share = 0.456 if len(run.history) == 2 else math.nan
            run.history[-1].update(
                images_per_second=12.34, data_wait_share=0.25, share_of_peak=share, seconds=125.0
            )

    with caplog.at_level("INFO"):
        train(run, *batches, [Measure(), ProgressBar()])
    head, *rows, end = _lines(caplog)
    columns = [match.end() for match in re.finditer(r"\S+( \S+)*", head)]
    for record, row in zip(run.history, rows, strict=True):
        cells = [row[start:stop] for start, stop in pairwise([0, *columns])]
        scores = [record[name] for name in ("train_loss", "train_dice_coeff", "val_loss", "val_dice_coeff")]
        assert [cell.strip() for cell in cells[:6]] == [
            f"{record['epoch']}/2",
            *(f"{score:.4f}" for score in scores),
            "12.3",
        ]
    assert [row.split()[-1] for row in rows] == ["02:05", "00:00"]
    assert end == f"Best epoch: {run.best_epoch}. Last epoch: 25% waiting for images, 46% of peak FLOP/s"


def test_the_table_of_epochs_does_not_name_an_unknown_share_of_the_peak(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    run, *batches = setup(epochs=1)
    with caplog.at_level("INFO"):
        train(run, *batches, [ProgressBar()])
    assert math.isnan(run.history[-1]["share_of_peak"])
    assert "peak" not in caplog.text and "waiting for images" in caplog.text


def test_long_epochs_log_their_progress(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    run, *batches = setup(epochs=1)

    class Slow(Callback):
        def on_step_end(self, run: Any, step: Any) -> None:
            run.progress.seconds = 100.0 * step.number

    with caplog.at_level("INFO"):
        train(run, *batches, [Slow(), ProgressBar(seconds=0)])
    _, *between, _, _ = _lines(caplog)
    assert [line.split(": loss")[0] for line in between] == ["Epoch 1/1, step 1/3", "Epoch 1/1, step 2/3"]
    assert [line.split("; ")[1] for line in between] == [
        "0.0 images/s, 03:20 left",
        "0.0 images/s, 01:40 left",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_progress_bar_starts_where_the_epoch_resumes(
    setup: Setup, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, *batches = setup(epochs=1)
    bars: list[Any] = []

    class Watch(Callback):
        def on_step_end(self, run: Any, step: Any) -> None:
            bar = progress._bar
            assert bar is not None
            bars.append((bar.initial, bar.n, bar.total, bar.format_dict["postfix"]))
            run.interrupted = lambda: step.number == 1

        def on_interrupted(self, run: Any) -> None:
            assert progress._bar is None

    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = ProgressBar(seconds=0)
    with caplog.at_level("INFO"), pytest.raises(TrainingInterruptedError):
        train(run, *batches, [progress, Watch()])
    first_loss = run.progress.loss[0]
    with caplog.at_level("INFO"):
        train(run, *batches, [progress, Watch()])
    # 12 images in 3 steps. The bar appears after the first step.
    assert [bar[:3] for bar in bars] == [(4, 4, 12), (8, 8, 12), (8, 12, 12)]
    assert bars[0][3].startswith(f"loss {first_loss:.4f}, Dice ")
    assert [line.split()[0] for line in _lines(caplog)] == ["epoch", "epoch", "1/1", "Best"]
    assert "Epoch 1/1" in sys.stderr.getvalue() and "images/s" in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_a_progress_bar_computes_means_only_when_it_is_drawn(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, *batches = setup(epochs=1)
    means, calls, counts = Progress.means, [], []
    monkeypatch.setattr(Progress, "means", lambda progress: calls.append(1) or means(progress))
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = ProgressBar(seconds=0)

    class Watch(Callback):
        def on_step_end(self, run: Any, step: Any) -> None:
            assert progress._bar is not None
            progress._bar.miniters = 1000  # images until it is drawn again
            counts.append(len(calls))

    train(run, *batches, [progress, Watch()])
    assert counts[0] > 0
    assert counts == [counts[0]] * 3
