"""The inference pipeline."""

from kedro.pipeline import Node, Pipeline

from carvana_kedro.prediction_plan import INPUTS, select_test_images

from .nodes import (
    index_test_images,
    predict_masks,
    summarize_predictions,
    write_submission,
)


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline from a model and the test images to a submission."""
    return Pipeline(
        [
            Node(
                index_test_images,
                inputs="test_images",
                outputs="test_image_index",
                name="index_test_images",
            ),
            Node(
                select_test_images,
                inputs=["test_image_index", "test_images", "params:inference"],
                outputs="test_index",
                name="select_test_images",
            ),
            Node(
                predict_masks,
                inputs=INPUTS,
                outputs="predictions",
                name="predict_masks",
                tags="network",
            ),
            Node(
                write_submission,
                inputs=["predictions", "prediction_shards"],
                outputs="submission",
                name="write_submission",
            ),
            Node(
                summarize_predictions,
                inputs=[
                    "predictions",
                    "test_index",
                    "prediction_shards",
                    "predicted_images",
                    "params:inference",
                    "source",
                ],
                outputs="prediction_summary",
                name="summarize_predictions",
            ),
        ],
        namespace="inference",
        prefix_datasets_with_namespace=False,
    )
