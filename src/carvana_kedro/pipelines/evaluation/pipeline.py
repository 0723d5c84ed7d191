"""The evaluation pipeline."""

from kedro.pipeline import Node, Pipeline

from .nodes import score_model, select_unseen_images


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline from any model and images with masks to scores."""
    return Pipeline(
        [
            Node(
                select_unseen_images,
                inputs=["training_images", "model"],
                outputs="evaluation_index",
                name="select_unseen_images",
            ),
            Node(
                score_model,
                inputs=[
                    "model",
                    "evaluation_index",
                    "training_images",
                    "params:inference",
                    "params:model_training",
                ],
                outputs=["evaluation_scores", "evaluation_metrics", "evaluation_threshold_curve"],
                name="score_model",
                tags="network",
            ),
        ],
        namespace="evaluation",
        prefix_datasets_with_namespace=False,
    )
