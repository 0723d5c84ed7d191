"""Segmenting cars from studio photographs with U-Net: a Kedro project, a command and a library.

from carvana_kedro import Predictor, cut_out

cut_out("car.jpg").save("car.png")
mask = Predictor.load("cars").mask("car.jpg")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carvana_kedro.segmentation.prediction.predictor import Predictor as Predictor
    from carvana_kedro.segmentation.prediction.predictor import cut_out as cut_out

__version__ = "0.1.0"
__all__ = ["Predictor", "cut_out"]


def __getattr__(name: str) -> Any:
    """Import the library when it is first used: PyTorch takes seconds, and parts of the package do not need it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("carvana_kedro.segmentation.prediction.predictor"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
