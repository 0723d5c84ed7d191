"""The callbacks of a run: this package's and the user's own."""

from carvana_kedro.segmentation.monitoring.checkpoint_saver import CheckpointSaver
from carvana_kedro.segmentation.monitoring.event_writer import EventWriter
from carvana_kedro.segmentation.monitoring.progress import ProgressBar
from carvana_kedro.segmentation.monitoring.tensorboard import (
    TensorBoardCurves,
    TensorBoardGraph,
    TensorBoardHparams,
    TensorBoardImages,
    TensorBoardRecipe,
    TensorBoardScalars,
)
from carvana_kedro.segmentation.training.callbacks import Callback, load_callback
from carvana_kedro.segmentation.training.recipe import Recipe


def build_callbacks(
    recipe: Recipe, saver: CheckpointSaver, events: EventWriter, origin: str
) -> list[Callback]:
    """Build this package's callbacks and the user's own.

    Args:
        recipe: Recipe of the run.
        saver: Saves its checkpoints.
        events: Writes its events.
        origin: what the run depends on besides its parameters, as Markdown for TensorBoard.

    Raises:
        UserError: A callback of the user's own cannot be built.
    """
    return [
        ProgressBar(),
        TensorBoardRecipe(events, origin),
        TensorBoardGraph(events),
        TensorBoardScalars(events),
        TensorBoardImages(events, recipe.logged_images),
        TensorBoardCurves(events),
        TensorBoardHparams(events),
        # After the others, so that what is saved has been shown; before the user's own, which may fail.
        saver,
        *map(load_callback, recipe.callbacks),
    ]
