from pathlib import Path

import pytest

from carvana_kedro import weights
from carvana_kedro.errors import UserError


@pytest.mark.parametrize("path", ["model.pt", "./cars", "models/cars.pt"])
def test_a_path_names_a_file_of_the_user(path: str) -> None:
    assert weights.path_of(path) == Path(path)


def test_a_name_names_a_file_beside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(UserError, match=r"The model cars is not part of this installation: .*cars\.pt"):
        weights.path_of("cars")
    (tmp_path / "cars.pt").touch()
    assert weights.path_of("cars") == tmp_path / "cars.pt"
