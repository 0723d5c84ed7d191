"""The data_ingestion pipeline."""

from kedro.pipeline import Node, Pipeline

from .nodes import index_training_images, split_cars


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline that turns the source into an index to train on and an index to validate on."""
    return Pipeline(
        [
            Node(
                index_training_images,
                inputs=["training_images", "params:data_ingestion"],
                outputs="training_image_index",
                name="index_training_images",
            ),
            Node(
                split_cars,
                inputs=["training_image_index", "params:data_ingestion"],
                outputs=["train_index", "validation_index", "split_parameters"],
                name="split_cars",
            ),
        ],
        namespace="data_ingestion",
        prefix_datasets_with_namespace=False,
    )
