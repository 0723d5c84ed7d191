"""The reporting pipeline."""

from kedro.pipeline import Node, Pipeline

from .nodes import plot_learning_curves, score_submission, tabulate_scores
from .pictures import draw_gallery, draw_learning_curves, draw_threshold_curve, preview_submission
from .report import write_report
from .turntables import draw_turntables


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline that turns histories, scores and predictions into curves, tables and figures."""
    return Pipeline(
        [
            Node(
                plot_learning_curves,
                inputs=["training_history", "trained_model"],
                outputs="learning_curves",
                name="plot_learning_curves",
                tags="pictures",
            ),
            Node(
                tabulate_scores,
                inputs=["validation_scores", "trained_model"],
                outputs="score_table",
                name="tabulate_scores",
            ),
            Node(
                draw_learning_curves,
                inputs=["training_history", "trained_model"],
                outputs="learning_curves_image",
                name="draw_learning_curves",
                tags="pictures",
            ),
            Node(
                draw_threshold_curve,
                inputs=["validation_threshold_curve", "trained_model"],
                outputs="threshold_curve_image",
                name="draw_threshold_curve",
                tags="pictures",
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
                tags=["network", "pictures"],
            ),
            Node(
                preview_submission,
                inputs=[
                    "submission",
                    "predictions",
                    "model",
                    "test_images",
                    "params:model_training",
                    "params:reporting",
                ],
                outputs=["submission_preview", "overlays", "cutouts"],
                name="preview_submission",
                tags=["network", "pictures"],
            ),
            Node(
                draw_turntables,
                inputs=[
                    "submission",
                    "predictions",
                    "model",
                    "test_index",
                    "test_images",
                    "params:reporting",
                ],
                outputs="turntables",
                name="draw_turntables",
                tags="pictures",
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
                    "cutouts",
                    "turntables",
                    "source",
                    "params:recipes",
                    "params:model_training",
                ],
                outputs="report",
                name="write_report",
                tags=["network", "pictures"],
            ),
        ],
        namespace="reporting",
        prefix_datasets_with_namespace=False,
    )
