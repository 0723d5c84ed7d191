"""The export pipeline."""

from kedro.pipeline import Node, Pipeline

from .nodes import check_export, export_model


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline from a trained model to files that do not need this package."""
    return Pipeline(
        [
            Node(
                export_model,
                inputs=["model", "export_folder", "params:export", "params:model_training"],
                outputs="export_manifest",
                name="export_model",
            ),
            Node(
                check_export,
                inputs=["model", "export_folder", "export_manifest", "params:model_training"],
                outputs="export_check",
                name="check_export",
            ),
        ],
        namespace="export",
        prefix_datasets_with_namespace=False,
    )
