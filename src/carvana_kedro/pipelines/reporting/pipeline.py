"""The reporting pipeline."""

from kedro.pipeline import Node, Pipeline

from .nodes import draw_gallery, plot_learning_curves, preview_submission, score_submission, tabulate_scores
from .report import write_report


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline that turns histories, scores and predictions into curves, tables and figures."""
    return Pipeline(
        [
            Node(
                plot_learning_curves,
                inputs=["training_history", "trained_model"],
                outputs="learning_curves",
                name="plot_learning_curves",
            ),
            Node(
                tabulate_scores,
                inputs=["validation_scores", "trained_model"],
                outputs="score_table",
                name="tabulate_scores",
            ),
            Node(
                draw_gallery,
                inputs=[
                    "trained_model",
                    "validation_scores",
                    "training_images",
                    "params:model_training",
                    "params:reporting",
                ],
                outputs="validation_gallery",
                name="draw_gallery",
            ),
            Node(
                preview_submission,
                inputs=["submission", "predictions", "model", "test_images", "params:reporting"],
                outputs="submission_preview",
                name="preview_submission",
            ),
            Node(
                score_submission,
                inputs=["submission", "predictions", "model", "solution", "test_images"],
                outputs="submission_score",
                name="score_submission",
            ),
            Node(
                write_report,
                inputs=[
                    "trained_model",
                    "run_manifest",
                    "training_history",
                    "validation_scores",
                    "validation_threshold_curve",
                    "train_index",
                    "validation_index",
                    "training_images",
                    "submission_score",
                    "source",
                    "params:recipes",
                    "params:data_ingestion",
                    "params:model_training",
                ],
                outputs="report",
                name="write_report",
            ),
        ],
        namespace="reporting",
        prefix_datasets_with_namespace=False,
    )
