"""The pipelines as Kedro sees them: shapes, names, and a slice run on an in-memory catalog."""

import pytest
from kedro.framework.project import configure_project
from kedro.framework.project import pipelines as registered
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner

from carvana_kedro.parameters import DataIngestion
from carvana_kedro.pipeline_registry import DEFAULT, NAMES
from carvana_kedro.pipelines import data_ingestion
from carvana_kedro.stores.images.competition import ImageStore

configure_project("carvana_kedro")


def test_the_default_is_all_four_in_order() -> None:
    assert set(registered) == {"__default__", *NAMES}
    assert registered["__default__"].nodes == sum((registered[name] for name in DEFAULT), Pipeline([])).nodes


def test_what_costs_or_leaves_the_machine_is_asked_for_by_name() -> None:
    assert {"evaluation", "export", "submission"} == set(NAMES) - set(DEFAULT)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_are_named_like_their_functions_and_folded_by_pipeline(name: str) -> None:
    for node in registered[name].nodes:
        assert node.namespace == name
        assert node.name == f"{name}.{node.func.__name__}"
        assert node.func.__doc__


def test_what_runs_alone_takes_only_what_earlier_pipelines_leave() -> None:
    made: set[str] = set()
    sources = {
        "training_images",
        "test_images",
        "solution",
        "pixel_cache",
        "checkpoints",
        "tensorboard",
        "prediction_shards",
        "predicted_images",
        "sample_submission",
        "competition",
        "source",
    }
    for name in (*DEFAULT, "submission"):
        inputs = {entry for entry in registered[name].inputs() if not entry.startswith("params:")}
        assert inputs <= made | sources
        made |= registered[name].outputs() | registered[name].all_outputs()


def test_ingestion_runs_on_an_in_memory_catalog(training_images: ImageStore) -> None:
    catalog = DataCatalog(
        {
            "training_images": MemoryDataset(training_images, copy_mode="assign"),
            "params:data_ingestion": MemoryDataset(DataIngestion(validation_fraction=0.25)),
        }
    )
    outputs = SequentialRunner().run(data_ingestion.create_pipeline(), catalog)
    train, validation = outputs["train_index"].load(), outputs["validation_index"].load()
    assert (len(train), len(validation)) == (12, 4)
