"""What all parts share: the device, the images, and the size of the work."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.contenders import Task
from benchmarks.gpu.roofline import Ceilings
from benchmarks.measuring import read_recipes
from carvana_kedro.segmentation.architectures import build_network
from carvana_kedro.segmentation.data.geometry import Size
from carvana_kedro.segmentation.hardware import Hardware
from carvana_kedro.segmentation.training.recipe import Recipe
from carvana_kedro.stores.images.competition import ImageStore
from carvana_kedro.stores.machine import usable_cores


@dataclass(frozen=True)
class Bench:
    """What all parts share.

    Attributes:
        data: The folder that `benchmarks.gpu.pack` has written.
        out: Folder of the results.
        ceilings: The rates that the device reaches.
        recipe_name: Recipe to train and score.
        training_seconds: How long to train it.
        tiny: Whether to make everything small, to test the program.
    """

    data: Path
    out: Path
    ceilings: Ceilings
    recipe_name: str
    training_seconds: float
    tiny: bool

    @property
    def hardware(self) -> Hardware:
        """The device, without compilation."""
        return self.ceilings.hardware

    @property
    def train_images(self) -> ImageStore:
        """Reduced images to train on."""
        return ImageStore(self.data / "train", self.data / "train_masks")

    @property
    def held_out_images(self) -> ImageStore:
        """Images of other cars, as the competition has them."""
        return ImageStore(self.data / "held_out", self.data / "held_out_masks")

    @property
    def num_workers(self) -> int:
        """Number of processes that read images."""
        return 2 if self.tiny else usable_cores()

    def task(self, name: str, input_size: Size, batch_size: int = 16) -> Task:
        """Return a network at a size; a small one if everything is small."""
        task = Task(name, partial(build_network, name), input_size, batch_size, steps=10)
        return task.tiny() if self.tiny else task

    def recipe(self) -> Recipe:
        """Return the recipe to train, without compilation and without weights that would have to be downloaded."""
        recipe = read_recipes()[self.recipe_name]
        recipe = replace(recipe, pretrained=False, compile=False, folds=0)
        if not self.tiny:
            return recipe
        return replace(recipe, width_multiplier=0.05, input_size=(64, 128), batch_size=2)

    def repeated(self, image_ids: Sequence[str], count: int) -> list[str]:
        """Return at least `count` ids, each as often as the others; four ids if everything is small."""
        if self.tiny:
            return list(image_ids[:4])
        return list(image_ids) * -(-count // len(image_ids))
