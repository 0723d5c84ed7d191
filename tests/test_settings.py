import pytest
from omegaconf import OmegaConf

from carvana_kedro.errors import UserError
from carvana_kedro.settings import pick, side


def test_pick_takes_the_entry_of_that_name() -> None:
    assert pick("_sources", "b", _root_={"_sources": {"a": 1, "b": 2}}) == 2


def test_pick_names_the_choices() -> None:
    with pytest.raises(UserError, match=r"There is no source named 'c'. There are: a, b\."):
        pick("_sources", "c", _root_={"_sources": {"b": 1, "a": 2}})
    with pytest.raises(UserError, match="recipes = None: should be a table"):
        pick("recipes", "a", _root_={"recipes": None})


def test_a_side_is_the_chosen_sources() -> None:
    root = OmegaConf.create(
        {
            "_root": "data",
            "_source": "b",
            "_sources": {"a": {}, "b": {"path": "${_root}/b", "settings": {"n": 1}}},
        }
    )
    assert side("test", _root_=root) == {"path": "data/b", "settings": {"n": 1}, "side": "test"}
    with pytest.raises(UserError, match="There is no source named 'c'"):
        side("test", _root_={**root, "_source": "c"})
