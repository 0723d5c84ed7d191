import base64
from io import BytesIO

import numpy as np
from PIL import Image

from carvana_kedro.pipelines.reporting.report.cutouts import choose_cutouts


def _opened(picture: str) -> np.ndarray:
    with Image.open(BytesIO(base64.b64decode(picture))) as opened:
        return np.asarray(opened.convert("RGBA"))


def test_three_cutouts_are_chosen_and_only_they_are_loaded() -> None:
    loaded = []

    def load(name: str) -> np.ndarray:
        loaded.append(name)
        return np.full((40, 60, 4), 255, np.uint8)

    for count, expected in ((0, ""), (1, "a"), (2, "ab"), (3, "abc"), (8, "aeh")):
        names = "abcdefgh"[:count]
        loaded.clear()
        chosen = choose_cutouts({name: lambda name=name: load(name) for name in reversed(names)})  # type: ignore[misc]
        assert "".join(cutout.image for cutout in chosen) == "".join(loaded) == expected


def test_a_cutout_is_small_and_has_no_transparent_margin() -> None:
    cutout = np.zeros((1280, 1918, 4), np.uint8)
    cutout[400:1000, 500:1400] = (200, 60, 30, 255)
    cutout[500:600, 600:800] = 0
    empty = np.zeros((40, 60, 4), np.uint8)
    (first, second) = choose_cutouts({"a": lambda: cutout, "b": lambda: empty})
    small = _opened(first.picture)
    assert small.shape == (320, 480, 4)
    assert np.abs(small[200, 300].astype(int) - (200, 60, 30, 255)).max() < 12
    assert small[75, 100, 3] == 0
    assert not _opened(second.picture)[..., 3].any()
