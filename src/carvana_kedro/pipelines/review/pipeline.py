"""The review pipeline."""

from kedro.pipeline import Node, Pipeline

from .nodes import rank_masks, write_masks
from .sheet import write_sheet


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline that writes the predicted masks for a person to correct, and says which to look at first."""
    return Pipeline(
        [
            Node(
                rank_masks,
                inputs=[
                    "prediction_summary",
                    "predictions",
                    "prediction_shards",
                    "test_index",
                    "test_images",
                ],
                outputs="ranked_masks",
                name="rank_masks",
            ),
            Node(
                write_masks,
                inputs=["ranked_masks", "predictions", "prediction_shards", "test_images", "editable_masks"],
                outputs="review_list",
                name="write_masks",
            ),
            Node(
                write_sheet,
                inputs=["review_list", "predictions", "prediction_shards", "test_images", "editable_masks"],
                outputs="review_sheet",
                name="write_sheet",
                tags="pictures",
            ),
        ],
        namespace="review",
        prefix_datasets_with_namespace=False,
    )
