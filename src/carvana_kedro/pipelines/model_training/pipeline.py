"""The model_training pipeline."""

from kedro.pipeline import Node, Pipeline

from .model_card import write_model_card
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
                inputs=[
                    "model",
                    "train_index",
                    "validation_index",
                    "training_images",
                    "params:model_training",
                ],
                outputs=["validation_scores", "validation_metrics", "validation_threshold_curve"],
                name="evaluate_model",
            ),
            Node(
                describe_run,
                inputs=[
                    "model",
                    "train_index",
                    "validation_index",
                    "training_history",
                    "validation_metrics",
                    "params:recipe",
                    "params:data_ingestion",
                    "params:model_training",
                ],
                outputs="run_manifest",
                name="describe_run",
            ),
            Node(
                write_model_card,
                inputs=[
                    "run_manifest",
                    "validation_scores",
                    "validation_threshold_curve",
                    "params:recipes",
                    "source",
                ],
                outputs="model_card",
                name="write_model_card",
            ),
        ],
        namespace="model_training",
        prefix_datasets_with_namespace=False,
    )
