"""Where a result comes from: what a run manifest says."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from carvana_kedro import __version__

_HERE = Path(__file__).parent
_DECODING = ("stores/images", "segmentation/data")
_TRAINING = ("segmentation/architectures", "segmentation/training")
_PREDICTION = ("segmentation/architectures", "segmentation/prediction")
_LIBRARIES = ("kedro", "numpy", "opencv-python-headless", "pandas", "pillow", "torch", "torchvision")


def run_facts(
    parameters: Mapping[str, Any],
    image_ids: Sequence[Sequence[str]],
    source: str,
    extensions: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what decides a training run's result: parameters, images, package version and code, as plain values.

    Args:
        parameters: the recipe.
        image_ids: of each side of the split.
        source: fingerprint of the images' source.
    """
    return {
        "parameters": json.loads(json.dumps(parameters)),  # as they come back from a file
        "images": images_digest(*image_ids),
        "source": source,
        "package": __version__,
        "code": _digest(*_sources(*_DECODING, *_TRAINING)),
    }


def run_id(facts: Mapping[str, Any]) -> str:
    """Return a short hash of facts.

    >>> run_id({"epochs": 3, "seed": 1}) == run_id({"seed": 1, "epochs": 3})
    True
    """
    return _digest(json.dumps(facts, sort_keys=True))


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return in what two sets of facts differ.

    >>> differences({"a": {"b": 1, "c": 2}, "code": "x"}, {"a": {"b": 1, "c": 3}, "code": "y"})
    ['a.c: 2 -> 3', 'code: x -> y']
    """
    found = []
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old} -> {new}")
    return found


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def images_digest(*sides: Sequence[str]) -> str:
    """Return a short hash of image ids, in their order, on each side of a split."""
    return _digest(*(image_id for side in sides for image_id in (*side, "")))


def predicting_digest(extensions: Sequence[str] = ()) -> str:
    """Return a short hash of what decides which masks a model predicts: package version and code."""
    return _digest(__version__, *_sources(*_DECODING, *_PREDICTION))


def decoding_digest() -> str:
    """Return a short hash of what decides how images become pixels: package version and code."""
    return _digest(__version__, *_sources(*_DECODING))


def _sources(*places: str) -> list[str]:
    """Return the text of every module of these folders."""
    files = (file for place in places for file in sorted(_HERE.joinpath(place).glob("**/*.py")))
    return [file.read_text() for file in files]


def versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that its results depend on."""
    own = {"python": platform.python_version(), "carvana_kedro": __version__}
    return own | {library: version(library) for library in _LIBRARIES}


def git_commit() -> str | None:
    """Return the commit the package runs from, with `+changes` after it if files differ; None outside of git."""

    def git(*arguments: str) -> str:
        call = subprocess.run(["git", *arguments], cwd=_HERE, capture_output=True, text=True, check=True)
        return call.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> dict[str, Any]:
    """Return what the run computed on."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
    }
