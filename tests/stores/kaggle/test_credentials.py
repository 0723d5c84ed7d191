"""Credentials for Kaggle: the places they are found in, their order, and what is rejected."""

from pathlib import Path

import pytest

from carvana_kedro.errors import UserError
from carvana_kedro.stores.kaggle.credentials import Credentials, find_credentials

ENVIRONMENT = {"KAGGLE_USERNAME": "e", "KAGGLE_KEY": "ek"}


def _write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_places_are_searched_in_the_documented_order(tmp_path: Path) -> None:
    _write(tmp_path / ".kaggle/kaggle.json", '{"username": "f", "key": "fk"}')
    configured = {"username": "c", "key": "ck", "file": str(_write(tmp_path / "credentials.yml", "..."))}
    where = [
        find_credentials(given, environment, tmp_path)
        for given, environment in ((configured, ENVIRONMENT), ({}, ENVIRONMENT), ({}, {}))
    ]
    assert [(found.username, found.key) for found in where] == [("c", "ck"), ("e", "ek"), ("f", "fk")]
    assert [found.where for found in where] == [
        str(tmp_path / "credentials.yml"),
        "the environment",
        str(tmp_path / ".kaggle/kaggle.json"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        (".kaggle/access_token", "KGAT_1\n", Credentials("", token="KGAT_1")),
        (".kaggle/access_token.txt", "KGAT_1", Credentials("", token="KGAT_1")),
        (".kaggle/kaggle.json", '{"username": "f", "key": "fk"}', Credentials("", username="f", key="fk")),
        (
            ".config/kaggle/kaggle.json",
            '{"username": "f", "key": "fk"}',
            Credentials("", username="f", key="fk"),
        ),
        (".kaggle/credentials.json", '{"refresh_token": "r"}', Credentials("")),
    ],
)
def test_files_of_kaggle_are_found_and_must_be_private(
    tmp_path: Path, name: str, text: str, found: Credentials
) -> None:
    path = _write(tmp_path / name, text)
    got = find_credentials({}, {}, tmp_path)
    assert (got.where, got.token, got.username, got.key) == (
        str(path),
        found.token,
        found.username,
        found.key,
    )
    for mode in (0o644, 0o640, 0o604):
        path.chmod(mode)
        with pytest.raises(UserError, match=f"Other users can read {path}, .*: chmod 600 {path}$"):
            find_credentials({}, {}, tmp_path)


def test_the_configuration_file_must_be_private(tmp_path: Path) -> None:
    path = _write(tmp_path / "credentials.yml", "...", 0o644)
    with pytest.raises(UserError, match=f"chmod 600 {path}"):
        find_credentials({"token": "t", "file": str(path)}, {}, tmp_path)


def test_the_environment_holds_a_token_or_the_path_of_a_file(tmp_path: Path) -> None:
    assert find_credentials({}, {"KAGGLE_API_TOKEN": "KGAT_1"}, tmp_path).token == "KGAT_1"
    path = _write(tmp_path / "token", "KGAT_2\n")
    assert find_credentials({}, {"KAGGLE_API_TOKEN": str(path)}, tmp_path).token == "KGAT_2"
    own = _write(tmp_path / "elsewhere/kaggle.json", '{"username": "f", "key": "fk"}')
    assert find_credentials({}, {"KAGGLE_CONFIG_DIR": str(own.parent)}, tmp_path).where == str(own)


def test_the_error_for_missing_credentials_lists_the_places(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        find_credentials({}, {}, tmp_path)
    for place in ("conf/local/credentials.yml", "KAGGLE_API_TOKEN", "~/.kaggle/access_token", "chmod 600"):
        assert place in str(raised.value)
    assert "password" not in str(raised.value)


@pytest.mark.parametrize("variable", ["KAGGLE_USER", "KAGGLE_PASSWD"])
def test_the_error_for_the_old_login_says_that_passwords_are_not_accepted(
    tmp_path: Path, variable: str
) -> None:
    with pytest.raises(UserError, match="Kaggle accepts only tokens and keys, not passwords"):
        find_credentials({}, {variable: "x"}, tmp_path)


@pytest.mark.parametrize(
    ("configured", "environment", "raised"),
    [
        ({"username": "u"}, {}, "in credentials.yml lack key"),
        ({"key": "k"}, {}, "in credentials.yml lack username"),
        ({"pasword": "k"}, {}, "kaggle has unknown keys: pasword"),
        ({}, {"KAGGLE_USERNAME": "u"}, "in the environment lack KAGGLE_KEY"),
        ({}, {"KAGGLE_KEY": "k"}, "in the environment lack KAGGLE_USERNAME"),
    ],
)
def test_incomplete_credentials_are_an_error(
    tmp_path: Path, configured: dict[str, str], environment: dict[str, str], raised: str
) -> None:
    with pytest.raises(UserError, match=raised):
        find_credentials(configured, environment, tmp_path)


@pytest.mark.parametrize("text", ["[]", '{"username": "f"}', "no json"])
def test_the_error_names_the_damaged_file(tmp_path: Path, text: str) -> None:
    path = _write(tmp_path / ".kaggle/kaggle.json", text)
    with pytest.raises(UserError, match=f"{path} is damaged"):
        find_credentials({}, {}, tmp_path)


@pytest.mark.parametrize("token", ["KGAT_se\ncret", "KGAT_…", "KGAT_se cret", "KGAT_\x00secret"])
def test_invalid_characters_are_rejected_and_not_quoted(tmp_path: Path, token: str) -> None:
    for environment, configured in (({"KAGGLE_API_TOKEN": token}, {}), ({}, {"token": token})):
        with pytest.raises(UserError, match="has invalid characters") as raised:
            find_credentials(configured, environment, tmp_path)
        assert "KGAT_" not in str(raised.value)


def test_surrounding_whitespace_is_removed(tmp_path: Path) -> None:
    assert find_credentials({"token": " KGAT_1\n"}, {}, tmp_path).token == "KGAT_1"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfeK\x00"])
def test_the_error_names_the_empty_or_unreadable_file(tmp_path: Path, content: bytes) -> None:
    path = _write(tmp_path / ".kaggle/access_token", "")
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} should hold your Kaggle credentials"):
        find_credentials({}, {}, tmp_path)


def test_a_file_named_in_the_environment_must_be_private(tmp_path: Path) -> None:
    path = _write(tmp_path / "token", "KGAT_2", 0o644)
    with pytest.raises(UserError, match=f"chmod 600 {path}"):
        find_credentials({}, {"KAGGLE_API_TOKEN": str(path)}, tmp_path)


def test_secrets_are_not_part_of_repr() -> None:
    text = repr(Credentials("here", token="s3cret", username="n4me", key="s3cret"))
    assert "s3cret" not in text
    assert "here" in text


def test_windows_has_no_mode_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / ".kaggle/access_token", "KGAT_1", 0o666)
    monkeypatch.setattr("sys.platform", "win32")
    assert find_credentials({}, {}, tmp_path).token == "KGAT_1"
