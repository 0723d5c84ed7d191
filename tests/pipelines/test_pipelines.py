"""The registered pipelines: their names, inputs and outputs, and a run on an in-memory catalog."""

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


@pytest.fixture(autouse=True)
def all_pipelines() -> None:
    """Register all pipelines: `--pipelines X` in an earlier test of this process leaves only X registered."""
    configure_project("carvana_kedro")


def test_the_default_pipeline_is_the_sum_of_four_pipelines_in_order() -> None:
    assert set(registered) == {"__default__", *NAMES}
    assert registered["__default__"].nodes == sum((registered[name] for name in DEFAULT), Pipeline([])).nodes


def test_the_other_pipelines_run_only_by_name() -> None:
    assert {"evaluation", "export", "inference_share", "review", "submission"} == set(NAMES) - set(DEFAULT)


@pytest.mark.parametrize("name", NAMES)
def test_nodes_have_the_name_of_their_function_and_the_namespace_of_their_pipeline(name: str) -> None:
    for node in registered[name].nodes:
        assert node.namespace == name
        assert node.name == f"{name}.{node.func.__name__}"
        assert node.func.__doc__


def test_the_inputs_of_a_pipeline_are_handles_or_outputs_of_earlier_pipelines() -> None:
    outputs: set[str] = set()
    handles = {
        "training_images",
        "test_images",
        "solution",
        "pixel_cache",
        "checkpoints",
        "tensorboard",
        "prediction_shards",
        "predicted_images",
        "editable_masks",
        "sample_submission",
        "competition",
        "source",
        "trained_model",
        "chosen_model",
    }
    for name in (*DEFAULT, "submission", "review"):
        inputs = {entry for entry in registered[name].inputs() if not entry.startswith("params:")}
        assert inputs <= outputs | handles
        outputs |= registered[name].outputs() | registered[name].all_outputs()


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
