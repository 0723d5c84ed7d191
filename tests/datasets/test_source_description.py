import json
from typing import Any

import pytest
from kedro.io import DataCatalog, DatasetError

from carvana_kedro.datasets import SourceDescriptionDataset
from carvana_kedro.errors import UserError

ABOUT: dict[str, Any] = {"limits": ["No boats."], "reproduce": ["a.b"], "writes_images": True}


def test_a_description_is_read_and_shown() -> None:
    dataset = SourceDescriptionDataset(name="mine", **ABOUT)
    description = dataset.load()
    assert (description.name, description.limits, description.reproduce) == ("mine", ("No boats.",), ("a.b",))
    assert description.writes_images is True
    assert json.loads(dataset.preview()) == {"name": "mine", **ABOUT}
    assert dataset.exists()
    with pytest.raises(DatasetError, match="is a source and cannot be saved"):
        dataset.save("another")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"limits": "No boats."}, {"reproduce": [1]}, {"writes_images": "perhaps"}])
def test_a_wrong_value_is_named(wrong: dict[str, Any]) -> None:
    entry = {"type": "carvana_kedro.datasets.SourceDescriptionDataset", "name": "mine", **ABOUT, **wrong}
    with pytest.raises(DatasetError) as told:
        DataCatalog.from_config({"source": entry})["source"]
    assert isinstance(told.value.__cause__, UserError)
    assert "_sources.mine.about in the catalog is not valid" in str(told.value.__cause__)
    assert next(iter(wrong)) in str(told.value.__cause__)
