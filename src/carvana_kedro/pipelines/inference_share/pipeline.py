"""The inference_share pipeline."""

from kedro.pipeline import Node, Pipeline

from carvana_kedro.prediction_plan import INPUTS

from .nodes import predict_share


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline that predicts a part of the shards, as one of many jobs."""
    return Pipeline(
        [
            Node(
                predict_share,
                inputs=INPUTS,
                outputs=None,
                name="predict_share",
                tags="network",
            ),
        ],
        namespace="inference_share",
        prefix_datasets_with_namespace=False,
    )
