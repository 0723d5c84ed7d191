from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from carvana_kedro.errors import UserError
from carvana_kedro.resolvers import ConfigLoader, about, here, home, model, pick, scratch, side


def test_pick_returns_the_chosen_entry() -> None:
    assert pick("_sources", "b", _root_={"_sources": {"a": 1, "b": 2}}) == 2


def test_an_unknown_choice_lists_what_is_available() -> None:
    with pytest.raises(UserError, match=r"Unknown source 'c'\. Available: a, b\."):
        pick("_sources", "c", _root_={"_sources": {"b": 1, "a": 2}})
    with pytest.raises(UserError, match=r"Unknown recipe 521\. Did you mean 512\? Available: 512, sample\."):
        pick("recipes", 521, _root_={"recipes": {512: {}, "sample": {}}})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="recipes must be a mapping, not None"):
        pick("recipes", "a", _root_={"recipes": None})


def test_a_side_belongs_to_the_chosen_source() -> None:
    root = OmegaConf.create(
        {
            "_root": "data",
            "_source": "b",
            "_sources": {"a": {}, "b": {"path": "${_root}/b", "settings": {"n": 1}}},
        }
    )
    assert side("test", _root_=root) == {"path": "data/b", "settings": {"n": 1}, "side": "test"}
    with pytest.raises(UserError, match="Unknown source 'c'"):
        side("test", _root_={**root, "_source": "c"})


def test_the_description_of_a_source_is_not_an_argument_of_its_dataset() -> None:
    entry = {"path": "a", "about": {"limits": ["none"], "competition": None, "name": "${_name}"}}
    root = OmegaConf.create({"_name": "mine", "_source": "a", "_sources": {"a": entry, "b": {}}})
    assert side("test", _root_=root) == {"path": "a", "side": "test"}
    assert about("limits", _root_=root) == ["none"]
    assert about("name", _root_=root) == "mine"
    assert about("competition", _root_=root) is None
    with pytest.raises(UserError, match=r"_sources\.a in the catalog has no about\.limit\. Add it"):
        about("limit", _root_=root)
    root["_source"] = "b"
    with pytest.raises(UserError, match=r"_sources\.b in the catalog has no about\.limits"):
        about("limits", _root_=root)


def test_paths_are_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert (home("~/data"), home("data"), home(None)) == (f"{tmp_path}/data", "data", None)
    assert (here("~/cars"), here("cars"), here(None)) == (f"{tmp_path}/cars", f"{tmp_path}/cars", None)


@pytest.mark.parametrize("address", ["s3://bucket/a", "gs://bucket"])
def test_the_address_of_an_object_store_stays_as_it_is(address: str) -> None:
    assert home(address) == here(address) == model(address) == address
    assert home(f"{address}/") == address  # with another slash behind it, it would be another folder


def test_scratch_is_on_a_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (scratch(None, "here"), scratch(None, "s3://bucket/a")) == ("here", "data")
    assert scratch("~/fast", "here") == scratch("~/fast", "s3://bucket/a") == f"{tmp_path}/fast"


def test_a_packaged_model_is_known_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cars").touch()
    assert (model("cars"), model("./cars"), model(None)) == ("cars", f"{tmp_path}/cars", None)
    assert model("trucks.pt") == f"{tmp_path}/trucks.pt"


def _loader(conf: Path, name: str) -> ConfigLoader:
    """A loader whose environment and parameters have this name."""
    (conf / name).mkdir()
    (conf / name / "globals.yml").write_text(f"environment: {name}")
    return ConfigLoader(str(conf), name, {"given": name}, base_env="base", default_run_env="local")


def test_a_loader_uses_its_own_globals_and_parameters_while_others_load(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    text = "entry: {environment: '${globals:environment}', given: '${runtime_params:given}'}"
    (tmp_path / "base/catalog.yml").write_text(text)
    loaders = {name: _loader(tmp_path, name) for name in ("a", "b", "c", "d")}
    with ThreadPoolExecutor(len(loaders)) as threads:
        for _ in range(10):
            for name, catalog in zip(
                loaders, threads.map(lambda each: each["catalog"], loaders.values()), strict=True
            ):
                assert catalog == {"entry": {"environment": name, "given": name}}
