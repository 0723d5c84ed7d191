"""Where a result comes from: what a run manifest says."""

import hashlib
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from carvana_kedro import __version__

_LIBRARIES = ("kedro", "numpy", "opencv-python-headless", "pandas", "pillow", "torch", "torchvision")


def run_id(*facts: Any) -> str:
    """Return a short hash of what decides a run's result, this package's version included.

    >>> run_id({"epochs": 3}) == run_id({"epochs": 3})
    True
    """
    text = json.dumps([__version__, *facts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that its results depend on."""
    own = {"python": platform.python_version(), "carvana_kedro": __version__}
    return own | {library: version(library) for library in _LIBRARIES}


def git_commit() -> str | None:
    """Return the commit the package runs from, with `+changes` after it if files differ; None outside of git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        call = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
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
