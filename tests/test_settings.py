import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.settings import pick


def test_pick_takes_the_entry_of_that_name() -> None:
    assert pick("_training_sources", "b", _root_={"_training_sources": {"a": 1, "b": 2}}) == 2


def test_pick_names_the_choices() -> None:
    with pytest.raises(UserError, match=r"There is no source named 'c'. There are: a, b\."):
        pick("_training_sources", "c", _root_={"_training_sources": {"b": 1, "a": 2}})
    with pytest.raises(UserError, match="recipes = None: should be a table"):
        pick("recipes", "a", _root_={"recipes": None})
