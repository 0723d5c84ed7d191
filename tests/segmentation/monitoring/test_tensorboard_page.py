"""What TensorBoard shows of runs in a browser, tested with its server and Chromium."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import expect

from carvana_kedro.segmentation.monitoring.event_writer import EventWriter
from carvana_kedro.segmentation.monitoring.tensorboard import (
    TensorBoardHparams,
    TensorBoardImages,
    TensorBoardRecipe,
    TensorBoardScalars,
)
from carvana_kedro.segmentation.training.loop import train
from chromium import broken_images, chromium, needs_chromium, sound_page

pytestmark = needs_chromium


def _write_run(folder: Path, setup: Callable[..., tuple], epochs: int) -> None:
    run, *batches = setup(epochs=epochs)
    run.about = {"parameters": {"batch_size": 4, "epochs": epochs}}
    with EventWriter(folder, purge_step=1) as writer:
        kinds = (TensorBoardScalars, TensorBoardHparams)
        callbacks = [TensorBoardImages(writer, 1), TensorBoardRecipe(writer, "Train **again**.")]
        train(run, *batches, [*callbacks, *(kind(writer) for kind in kinds)])


@contextmanager
def _tensorboard(folder: Path) -> Iterator[str]:
    """Start the server, and yield its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0"]
    server = subprocess.Popen([*command, "--host", "127.0.0.1"], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        lines = []
        for line in server.stderr:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                yield found.group()
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        server.terminate()
        server.communicate()


def test_tensorboard_shows_curves_pictures_recipe_and_results(
    setup: Callable[..., tuple], tmp_path: Path
) -> None:
    for name, epochs in (("short", 1), ("long", 2)):
        _write_run(tmp_path / name, setup, epochs)
    with (
        _tensorboard(tmp_path) as address,
        chromium() as browser,
        sound_page(browser, viewport={"width": 2400, "height": 1200}) as page,
    ):
        page.goto(f"{address}#timeseries")
        for tag in ("curves/dice", "curves/loss"):
            card = page.locator("card-view", has_text=tag)
            for run in ("long/train", "long/validation", "short/train", "short/validation"):
                expect(card).to_contain_text(run, timeout=30_000)
        expect(page.locator("card-view", has_text="data/train_loss")).to_be_visible()

        page.goto(f"{address}#images")
        picture = page.locator("tf-image-loader img").first
        expect(picture).to_be_visible(timeout=30_000)
        page.wait_for_function("image => image.naturalWidth === 648", arg=picture.element_handle())
        assert broken_images(page) == []

        page.goto(f"{address}#text")
        texts = page.locator("tf-text-loader")
        expect(texts.locator("tr", has_text="batch_size").first).to_contain_text("4", timeout=30_000)
        expect(texts.locator("strong", has_text="again").first).to_be_visible()

        page.goto(f"{address}#hparams")
        table = page.locator("tf-hparams-table-view")
        for text in ("result/dice", "result/duration_minutes", "long/valid", "short/valid"):
            expect(table.get_by_text(text).first).to_be_visible(timeout=30_000)
        expect(table.get_by_text("data/train_loss")).to_have_count(0)
