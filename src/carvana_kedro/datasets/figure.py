"""Plotly figures in json files, and tables that are shown as a figure."""

import json

import plotly.graph_objects as go
from kedro_datasets._typing import PlotlyPreview
from kedro_datasets.plotly import JSONDataset

from carvana_kedro.datasets.file import FormatDataset
from carvana_kedro.datasets.previews import if_present
from carvana_kedro.datasets.table import TableDataset

_CURVE = "#0072b2"
# Colors that can be read on light and on dark. Kedro-Viz gives its own only to the first x-axis and y-axis.
_TEXT = "#8a8a8a"
_LINES = "rgba(138, 138, 138, 0.35)"


class FigureDataset(FormatDataset[go.Figure, go.Figure]):
    """A Plotly figure in a json file. Kedro-Viz previews the figure.

    Args:
        options: see `FormatDataset`.
    """

    FORMAT = JSONDataset

    @if_present
    def preview(self) -> PlotlyPreview:
        """Return the figure in colors for any background."""
        return _preview_of(self.load())


class CurveDataset(TableDataset):
    """A table of numbers. Kedro-Viz previews its second column as a curve over the first."""

    @if_present
    def preview(self) -> PlotlyPreview:
        """Return the curve."""
        table = self.load()
        x, y = table.columns[:2]
        best = table.nlargest(1, y).iloc[0]
        figure = go.Figure(go.Scatter(x=table[x], y=table[y], line={"color": _CURVE}))
        figure.update_xaxes(title=x)
        figure.update_yaxes(title=y)
        figure.update_layout(title=f"highest: {best[y]:.4f} at {x} {best[x]:.2f}")
        return _preview_of(figure)


def _preview_of(figure: go.Figure) -> PlotlyPreview:
    """Return a figure for Kedro-Viz, with the same colors and sizes of letters on all axes."""
    axis = {
        "gridcolor": _LINES,
        "linecolor": _LINES,
        "zerolinecolor": _LINES,
        "tickfont": {"color": _TEXT, "size": 10},
    }
    figure.update_layout(template="none", paper_bgcolor="rgba(0, 0, 0, 0)", plot_bgcolor="rgba(0, 0, 0, 0)")
    figure.update_xaxes(axis, title_font={"color": _TEXT, "size": 12})
    figure.update_yaxes(axis, title_font={"color": _TEXT, "size": 12})
    figure.update_annotations(font={"color": _TEXT, "size": 14})
    return PlotlyPreview(json.loads(figure.to_json()))
