"""Which predicted masks are doubtful, in a sentence: for the log and the summary of a run."""

import pandas as pd

from carvana_kedro.segmentation.prediction.doubt import DOUBTFUL

_NAMED = 3


def doubtful_masks(summary: pd.DataFrame) -> str:
    """Return how many masks are doubtful, and the worst three; an empty text if none is.

    Args:
        summary: What the inference pipeline writes, with the columns image and doubt.

    >>> doubtful_masks(pd.DataFrame({"image": ["a", "b", "c"], "doubt": [12.0, 2.5, 31.26]}))
    '2 of 3 masks, most of all c (31.3), a (12.0)'
    """
    found = summary[summary["doubt"] > DOUBTFUL].nlargest(len(summary), "doubt")
    if found.empty:
        return ""
    worst = ", ".join(f"{row.image} ({row.doubt:.1f})" for row in found.head(_NAMED).itertuples())
    return f"{len(found)} of {len(summary)} masks, most of all {worst}"
