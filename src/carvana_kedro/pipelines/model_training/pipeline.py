"""The model_training pipeline."""

import warnings

from kedro.pipeline import Node, Pipeline
from kedro.utils import KedroExperimentalWarning

from .model_card import write_model_card
from .network_diagram import draw_example_network
from .nodes import describe_run, evaluate_model, train_model


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline from the two indices to a model and its scores."""
    with warnings.catch_warnings(action="ignore", category=KedroExperimentalWarning):  # of preview_fn
        training = Node(
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
            tags="network",
            preview_fn=draw_example_network,
        )
    return Pipeline(
        [
            training,
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
                tags="network",
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
                    "split_parameters",
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
