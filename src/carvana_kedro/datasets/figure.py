"""Plotly figures in json files."""

from pathlib import Path

import plotly.graph_objects as go
import plotly.io
from kedro_datasets.plotly import JSONDataset

from carvana_kedro.stores.atomic import atomic_path
from carvana_kedro.stores.faults import reading


class FigureDataset(JSONDataset):
    """Kedro's dataset of Plotly figures with atomic writes. Kedro-Viz previews the figure."""

    def load(self) -> go.Figure:
        """Return the figure."""
        path = Path(self._filepath)
        with reading(path):
            return plotly.io.from_json(path.read_text("utf-8"), **self._load_args)

    def save(self, data: go.Figure) -> None:
        """Write the figure."""
        with atomic_path(Path(self._filepath)) as part:
            part.write_text(data.to_json(**self._save_args), "utf-8")
        self._invalidate_cache()
