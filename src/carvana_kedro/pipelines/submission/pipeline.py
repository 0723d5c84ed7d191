"""The submission pipeline."""

from kedro.pipeline import Node, Pipeline

from carvana_kedro.provenance import check_predictions

from .nodes import check_submission, upload_submission


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline that checks a submission and uploads it to Kaggle."""
    return Pipeline(
        [
            Node(
                check_predictions,
                inputs=["predictions", "submission", "chosen_model"],
                outputs="checked_submission",
                name="check_predictions",
            ),
            Node(
                check_submission,
                inputs=["checked_submission", "sample_submission", "test_image_index"],
                outputs="submission_check",
                name="check_submission",
            ),
            Node(
                upload_submission,
                inputs=["checked_submission", "submission_check", "competition", "params:submission"],
                outputs="submission_receipt",
                name="upload_submission",
            ),
        ],
        namespace="submission",
        prefix_datasets_with_namespace=False,
    )
