"""Plotly figures in json files, and tables that are shown as a figure."""

import json

import plotly.graph_objects as go
import plotly.io
from kedro_datasets._typing import PlotlyPreview

from carvana_kedro.datasets.file import FileDataset
from carvana_kedro.datasets.previews import if_present
from carvana_kedro.datasets.table import TableDataset
from carvana_kedro.stores.faults import reading

_CURVE = "#0072b2"
# Colors that can be read on light and on dark. Kedro-Viz gives its own only to the first x-axis and y-axis.
_TEXT = "#8a8a8a"
_LINES = "rgba(138, 138, 138, 0.35)"


class FigureDataset(FileDataset[go.Figure, go.Figure]):
    """A Plotly figure in a json file. Kedro-Viz previews the figure."""

    def load(self) -> go.Figure:
        """Return the figure."""
        with reading(self.where):
            return plotly.io.from_json(self._folder.read(self._name).decode())

    def save(self, data: go.Figure) -> None:
        """Write the figure."""
        with self._folder.write(self._name) as part:
            part.write_text(data.to_json(), "utf-8")

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
