"""The model_training pipeline."""

from kedro.pipeline import Node, Pipeline

from .nodes import describe_run, evaluate_model, train_model


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline from the two indices to a model and its scores."""
    return Pipeline(
        [
            Node(
                train_model,
                inputs=[
                    "train_index",
                    "validation_index",
                    "training_images",
                    "checkpoints",
                    "tensorboard",
                    "pixel_cache",
                    "params:model_training",
                ],
                outputs=["model", "training_history"],
                name="train_model",
            ),
            Node(
                evaluate_model,
                inputs=["model", "validation_index", "training_images", "params:model_training"],
                outputs=["validation_scores", "validation_metrics", "validation_threshold_curve"],
                name="evaluate_model",
            ),
            Node(
                describe_run,
                inputs=[
                    "model",
                    "train_index",
                    "training_history",
                    "validation_metrics",
                    "params:recipe",
                    "params:model_training",
                ],
                outputs="run_manifest",
                name="describe_run",
            ),
        ],
        namespace="model_training",
        prefix_datasets_with_namespace=False,
    )
