"""Whole runs against the stand-in for Kaggle, from an empty folder to a scored submission, some of them killed."""

import csv
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from standin_kaggle import KEY, USERNAME, Fault, StandInKaggle

PROJECT = Path(__file__).parents[1]
Kedro = Callable[..., subprocess.CompletedProcess[str]]

# The full workflow with a small network and small images.
SMALL = ",".join(
    [
        "recipe=sample",
        "model_training.width_multiplier=0.25",
        "model_training.input_size.width=96",
        "model_training.input_size.height=64",
        "model_training.epochs=10",
        "inference.num_workers=0",
    ]
)


def test_runs_from_an_empty_folder_to_a_score(kedro: Kedro, kaggle: StandInKaggle, tmp_path: Path) -> None:
    # Training does not download the test images, which are 16 GB on Kaggle.
    done = [kedro("run", "--env", "kaggle", "--pipelines", "data_ingestion,model_training", params=SMALL)]
    assert set(kaggle.sent) == {"train_hq.zip", "train_masks.zip", "train_masks.csv.zip"}

    # Inference downloads them. The connection breaks once.
    kaggle.fail("test_hq.zip", Fault(cut_after=10_000))
    done.append(kedro("run", "--env", "kaggle", "--pipelines", "inference,reporting", params=SMALL))
    output = tmp_path / "data/07_model_output/kaggle/sample"
    _, *rows = csv.reader(gzip.decompress((output / "submit.csv.gz").read_bytes()).decode().splitlines())
    assert len(rows) == 4

    submission = ("run", "--env", "kaggle", "--pipeline", "submission")
    done.append(kedro(*submission, params=f"{SMALL},submission.dry_run=true"))
    assert json.loads((output / "submission_receipt.json").read_text())["uploaded"] is False
    assert kaggle.submissions == []
    for _ in range(2):  # the second time, the same file is not uploaded again
        done.append(kedro(*submission, params=SMALL))
        receipt = json.loads((output / "submission_receipt.json").read_text())
        assert (receipt["uploaded"], receipt["status"]) == (True, "complete")
        assert float(receipt["public_score"]) > 0.3
        assert len(kaggle.submissions) == 1
    assert kaggle.submissions[0]["content"] == (output / "submit.csv.gz").read_bytes()

    # Everything is downloaded and submitted: a second run sends no requests.
    kaggle.requests.clear()
    done.append(kedro("run", "--env", "kaggle", params=SMALL))
    assert kaggle.requests == []

    assert not any(KEY in run.stdout + run.stderr for run in done)
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def _no_account(kaggle: StandInKaggle, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.delenv("KAGGLE_USERNAME")
    return "No Kaggle credentials were found"


def _old_login(kaggle: StandInKaggle, monkeypatch: pytest.MonkeyPatch) -> str:
    _no_account(kaggle, monkeypatch)
    monkeypatch.setenv("KAGGLE_USER", "me")
    monkeypatch.setenv("KAGGLE_PASSWD", "s3cret")
    return "Kaggle accepts only tokens and keys, not passwords"


def _wrong_key(kaggle: StandInKaggle, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KAGGLE_KEY", "wrong")
    return "Kaggle does not accept the credentials from the environment (401)"


def _rules(kaggle: StandInKaggle, monkeypatch: pytest.MonkeyPatch) -> str:
    kaggle.rules_accepted = False
    return "https://www.kaggle.com/c/carvana-image-masking-challenge/rules"


@pytest.mark.parametrize("mistake", [_no_account, _old_login, _wrong_key, _rules])
def test_errors_of_kaggle_are_reported_without_a_traceback(
    kedro: Kedro,
    kaggle: StandInKaggle,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mistake: Callable[[StandInKaggle, pytest.MonkeyPatch], str],
) -> None:
    expected = mistake(kaggle, monkeypatch)
    done = kedro("run", "--env", "kaggle", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert expected in done.stderr.partition("Error: ")[2]
    assert not list((tmp_path / "data/01_raw").rglob("*.zip"))


def test_local_credentials_are_used_in_every_environment(
    kaggle: StandInKaggle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "wrong")
    # Use a copy of the configuration, so that the developer's conf/local is not touched.
    conf = tmp_path / "conf"
    for folder in ("base", "kaggle"):
        (conf / folder).mkdir(parents=True)
        for path in (PROJECT / "conf" / folder).iterdir():
            (conf / folder / path.name).write_bytes(path.read_bytes())
    (conf / "local").mkdir()
    credentials = conf / "local/credentials.yml"
    credentials.write_text(f"kaggle: {{username: {USERNAME}, key: {KEY}}}\n")
    arguments = ["--env", "kaggle", "--pipelines", "data_ingestion", "--conf-source", str(conf)]
    command = [sys.executable, "-m", "kedro", "run", *arguments, "--params", f"data_root={tmp_path / 'data'}"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)

    credentials.chmod(0o644)
    done = run()
    assert done.returncode == 1
    assert (
        f"Other users can read {credentials}, which holds your Kaggle credentials: chmod 600" in done.stderr
    )
    credentials.chmod(0o600)
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr


def test_a_download_and_unpacking_killed_ten_times_resumes(
    kaggle: StandInKaggle, kedro: Kedro, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kill it six times while it downloads 12 MB, four times while it unpacks 3,000 images; then let it finish."""
    chance = random.Random(2017)
    names = [f"{number // 16:012x}_{number % 16 + 1:02d}" for number in range(3000)]
    archive = tmp_path / "train_hq.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name in names:
            packed.writestr(f"train_hq/{name}.jpg", chance.randbytes(4000))
    content = kaggle.content["train_hq.zip"] = archive.read_bytes()
    raw = tmp_path / "data/01_raw/kaggle/carvana-image-masking-challenge"
    node = ["run", "--env", "kaggle", "--nodes", "data_ingestion.index_training_images"]
    killed = []

    def images() -> int:
        return sum(1 for _ in raw.glob("unpacked/train_hq-*/*.jpg"))

    def kill(started: Callable[[], bool], after: float) -> None:
        command = [sys.executable, "-m", "kedro", *node, "--params", f"data_root={tmp_path / 'data'}"]
        process = subprocess.Popen(
            command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            while process.poll() is None and not started():
                time.sleep(0.005)
            time.sleep(after)
        finally:
            with suppress(ProcessLookupError):  # it may have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        part = raw / "train_hq.zip.part"
        downloaded = part.stat().st_size if part.exists() else len(content)
        killed.append((downloaded, images(), kaggle.sent["train_hq.zip"]))

    kaggle.bytes_per_second = 3e6
    for _ in range(6):
        before = kaggle.sent["train_hq.zip"]
        kill(lambda: kaggle.sent["train_hq.zip"] > before, chance.uniform(0.0, 0.6))  # noqa: B023
    assert killed[-1][0] < len(content)
    kaggle.bytes_per_second = None
    for _ in range(4):
        unpacked = images()
        kill(lambda: images() > unpacked, chance.uniform(0.0, 0.1))  # noqa: B023

    kedro(*node)
    (folder,) = raw.glob("unpacked/train_hq-????????????")
    with zipfile.ZipFile(archive) as packed:
        assert all(
            (folder / f"{name}.jpg").read_bytes() == packed.read(f"train_hq/{name}.jpg") for name in names
        )
    assert not list(raw.rglob("*.part"))
    again = kaggle.sent["train_hq.zip"] - len(content)
    with capsys.disabled():
        lines = [
            f"  {downloaded:>10,} bytes downloaded, {images:>5} images, {sent:>10,} bytes sent"
            for downloaded, images, sent in killed
        ]
        sys.stdout.write(
            "\n" + "\n".join(lines) + f"\n  {again:,} of {len(content):,} bytes were sent twice\n"
        )
    # Each of the six kills loses the data in transit and in the buffers of the sockets.
    assert again < 6 * 3 << 20
