"""Credentials in each environment, and locks. (test_cli.py tests the other hooks.)"""

from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline

from carvana_kedro.datasets import RecordDataset
from carvana_kedro.errors import UserError
from carvana_kedro.hooks import CheckInputsHook, LocalCredentialsHook, LockOutputsHook
from carvana_kedro.resolvers import ConfigLoader
from carvana_kedro.stores.locks import locked


def _credentials(conf: Path, env: str | None, name: str = "kaggle") -> dict[str, Any]:
    """Return the credentials that the catalog receives in an environment."""
    for folder in ("base", "local", "kaggle"):
        (conf / folder).mkdir(exist_ok=True)
    (conf / "base" / "parameters.yml").write_text("{}")
    if not (conf / "base" / "credentials.yml").exists():
        (conf / "base" / "credentials.yml").write_text("kaggle: {}\nstorage: {}\n")
    loader = ConfigLoader(str(conf), env=env, base_env="base", default_run_env="local")
    context: Any = SimpleNamespace(config_loader=loader, env=env)
    LocalCredentialsHook().after_context_created(context)
    return loader["credentials"][name]  # type: ignore[no-any-return]


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("env", [None, "local", "kaggle", "base"])
@pytest.mark.parametrize(
    "name", ["credentials.yml", "credentials.yaml", "credentials.json", "mine/credentials_kaggle.yml"]
)
def test_local_credentials_are_used_in_every_environment(tmp_path: Path, env: str | None, name: str) -> None:
    path = _write(tmp_path / "local" / name, '{"kaggle": {"token": "KGAT_1"}}')
    assert _credentials(tmp_path, env) == {"token": "KGAT_1", "file": str(path)}


def test_the_run_environment_overrides_local(tmp_path: Path) -> None:
    _write(tmp_path / "local/credentials.yml", "kaggle: {token: KGAT_1}")
    path = _write(tmp_path / "kaggle/credentials.yml", "kaggle: {token: KGAT_2}")
    assert _credentials(tmp_path, "kaggle") == {"token": "KGAT_2", "file": str(path)}


def test_environment_variables_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "KGAT_3")
    path = _write(tmp_path / "local/credentials.yml", "kaggle: {token: '${oc.env:MY_TOKEN}'}")
    assert _credentials(tmp_path, "kaggle") == {"token": "KGAT_3", "file": str(path)}


def test_without_credentials_the_entry_is_empty(tmp_path: Path) -> None:
    _write(tmp_path / "local/credentials.yml", "other: {password: x}")
    _write(tmp_path / "kaggle/credentials.yml", "")
    assert _credentials(tmp_path, "kaggle") == {}


@pytest.mark.parametrize("env", [None, "kaggle"])
def test_the_credentials_of_the_object_store_are_used_in_every_environment(
    tmp_path: Path, env: str | None
) -> None:
    text = "storage: {key: a, secret: b, client_kwargs: {endpoint_url: 'http://127.0.0.1:1'}}"
    _write(tmp_path / "local/credentials.yml", text)
    expected = {"key": "a", "secret": "b", "client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}}
    assert _credentials(tmp_path, env, "storage") == expected
    assert _credentials(tmp_path, env, "kaggle") == {}
    (tmp_path / "base/credentials.yml").write_text(text)
    with pytest.raises(UserError, match="holds credentials, but it is under version control"):
        _credentials(tmp_path, env, "storage")


def test_credentials_in_base_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "base/credentials.yml", "kaggle: {token: KGAT_1}")
    with pytest.raises(UserError, match=f"{path} holds credentials, but it is under version") as caught:
        _credentials(tmp_path, "kaggle")
    assert "KGAT_1" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "kaggle: {token: KGAT_1",
        "kaggle: KGAT_1",
        "storage: KGAT_1",
        "kaggle: {token: '${nope:KGAT_1}'}",
        "- KGAT_1\n-",
    ],
)
def test_the_message_about_an_invalid_file_does_not_quote_it(tmp_path: Path, text: str) -> None:
    path = _write(tmp_path / "local/credentials.yml", text)
    try:
        assert _credentials(tmp_path, "kaggle") == {}
    except UserError as error:
        assert str(path) in str(error)
        assert "KGAT_1" not in str(error)


def test_a_run_starts_without_an_optional_input(tmp_path: Path) -> None:
    def start(optional: bool) -> None:
        score = RecordDataset(filepath=str(tmp_path / "score.json"), optional=optional)
        node = Node(lambda score: "", "submission_score", "text", name="describe")
        catalog = DataCatalog({"submission_score": score})
        CheckInputsHook().before_pipeline_run({}, pipeline=Pipeline([node]), catalog=catalog)

    start(optional=True)
    with pytest.raises(UserError, match=r"submission_score \(.*score.json\)\nCreate them first: .*reporting"):
        start(optional=False)


def _start(
    hook: LockOutputsHook, data: Path, recipe: str, names: tuple[str, ...] = ("model", "index")
) -> None:
    """Start a run that writes these datasets."""
    paths = {
        "model": f"06_models/{recipe}/metrics.json",
        "predictions": f"07_model_output/photographs/{recipe}/predictions.json",
        "index": "05_model_input/photographs/index.json",
    }
    catalog = DataCatalog(
        {
            "params:recipe": MemoryDataset(recipe),
            **{name: RecordDataset(filepath=str(data / path)) for name, path in paths.items()},
        }
    )
    nodes = [Node(lambda: 1, None, name, name=name) for name in (*names, "in_memory")]
    hook.before_pipeline_run(pipeline=Pipeline(nodes), catalog=catalog)


def test_a_second_run_of_a_recipe_waits_until_the_first_has_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hook, order = LockOutputsHook(), []

    def second() -> None:
        _start(hook, tmp_path, "mine")
        order.append("second")
        hook.after_pipeline_run()

    _start(hook, tmp_path, "mine")
    thread = Thread(target=second)
    with caplog.at_level("INFO"):
        thread.start()
        while "Waiting for another run" not in caplog.text:
            thread.join(0.01)
            assert thread.is_alive()
    order.append("first")
    hook.on_pipeline_error()
    thread.join()
    assert order == ["first", "second"]
    assert f"Waiting for another run that uses {tmp_path / '06_models/mine'}" in caplog.text


def test_runs_that_write_other_folders_do_not_wait(tmp_path: Path) -> None:
    hook = LockOutputsHook()
    _start(hook, tmp_path, "mine")

    def others() -> None:
        _start(hook, tmp_path, "another")  # of the same source
        hook.after_pipeline_run()
        _start(hook, tmp_path, "mine", ("predictions",))
        hook.after_pipeline_run()
        _start(hook, tmp_path / "elsewhere", "mine")
        hook.after_pipeline_run()

    thread = Thread(target=others, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    hook.after_pipeline_run()


def test_a_run_after_an_interrupted_one_does_not_wait_for_it(tmp_path: Path) -> None:
    hook = LockOutputsHook()
    _start(hook, tmp_path, "mine")
    _start(hook, tmp_path, "mine")  # Kedro calls no hook after a KeyboardInterrupt
    hook.after_pipeline_run()
    hook.after_pipeline_run()
    with locked(tmp_path / "06_models/mine"):
        pass
