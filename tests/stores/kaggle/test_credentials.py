"""Whose name Kaggle is asked in: where it is looked for, in which order, and what is refused."""

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


def test_the_order_is_the_documented_one(tmp_path: Path) -> None:
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
def test_files_of_kaggles_own_are_found_and_must_be_private(
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
        with pytest.raises(UserError, match=f"Others can read {path}, .*: chmod 600 {path}$"):
            find_credentials({}, {}, tmp_path)


def test_the_configurations_file_must_be_private(tmp_path: Path) -> None:
    path = _write(tmp_path / "credentials.yml", "...", 0o644)
    with pytest.raises(UserError, match=f"chmod 600 {path}"):
        find_credentials({"token": "t", "file": str(path)}, {}, tmp_path)


def test_tokens_come_from_the_environment_and_from_the_file_it_names(tmp_path: Path) -> None:
    assert find_credentials({}, {"KAGGLE_API_TOKEN": "KGAT_1"}, tmp_path).token == "KGAT_1"
    path = _write(tmp_path / "token", "KGAT_2\n")
    assert find_credentials({}, {"KAGGLE_API_TOKEN": str(path)}, tmp_path).token == "KGAT_2"
    own = _write(tmp_path / "elsewhere/kaggle.json", '{"username": "f", "key": "fk"}')
    assert find_credentials({}, {"KAGGLE_CONFIG_DIR": str(own.parent)}, tmp_path).where == str(own)


def test_without_any_the_places_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        find_credentials({}, {}, tmp_path)
    for place in ("conf/local/credentials.yml", "KAGGLE_API_TOKEN", "~/.kaggle/access_token", "chmod 600"):
        assert place in str(told.value)
    assert "password" not in str(told.value)


@pytest.mark.parametrize("variable", ["KAGGLE_USER", "KAGGLE_PASSWD"])
def test_the_old_login_is_told_to_be_gone(tmp_path: Path, variable: str) -> None:
    with pytest.raises(UserError, match="login by password is gone: tokens replace it"):
        find_credentials({}, {variable: "x"}, tmp_path)


@pytest.mark.parametrize(
    ("configured", "environment", "told"),
    [
        ({"username": "u"}, {}, "in credentials.yml lack key"),
        ({"key": "k"}, {}, "in credentials.yml lack username"),
        ({"pasword": "k"}, {}, "kaggle has pasword"),
        ({}, {"KAGGLE_USERNAME": "u"}, "in the environment lack KAGGLE_KEY"),
        ({}, {"KAGGLE_KEY": "k"}, "in the environment lack KAGGLE_USERNAME"),
    ],
)
def test_half_of_them_is_told(
    tmp_path: Path, configured: dict[str, str], environment: dict[str, str], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        find_credentials(configured, environment, tmp_path)


@pytest.mark.parametrize("text", ["[]", '{"username": "f"}', "no json"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = _write(tmp_path / ".kaggle/kaggle.json", text)
    with pytest.raises(UserError, match=f"{path} is damaged"):
        find_credentials({}, {}, tmp_path)


@pytest.mark.parametrize("token", ["KGAT_se\ncret", "KGAT_…", "KGAT_se cret", "KGAT_\x00secret"])
def test_what_no_header_carries_is_refused_and_not_quoted(tmp_path: Path, token: str) -> None:
    for environment, configured in (({"KAGGLE_API_TOKEN": token}, {}), ({}, {"token": token})):
        with pytest.raises(UserError, match="has characters that none has") as told:
            find_credentials(configured, environment, tmp_path)
        assert "KGAT_" not in str(told.value)


def test_blanks_and_line_breaks_around_them_do_not_matter(tmp_path: Path) -> None:
    assert find_credentials({"token": " KGAT_1\n"}, {}, tmp_path).token == "KGAT_1"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfeK\x00"])
def test_an_empty_or_foreign_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = _write(tmp_path / ".kaggle/access_token", "")
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} should hold your Kaggle credentials"):
        find_credentials({}, {}, tmp_path)


def test_a_file_that_the_environment_names_must_be_private(tmp_path: Path) -> None:
    path = _write(tmp_path / "token", "KGAT_2", 0o644)
    with pytest.raises(UserError, match=f"chmod 600 {path}"):
        find_credentials({}, {"KAGGLE_API_TOKEN": str(path)}, tmp_path)


def test_secrets_are_not_part_of_the_text() -> None:
    text = repr(Credentials("here", token="s3cret", username="n4me", key="s3cret"))
    assert "s3cret" not in text
    assert "here" in text


def test_windows_has_no_mode_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path / ".kaggle/access_token", "KGAT_1", 0o666)
    monkeypatch.setattr("sys.platform", "win32")
    assert find_credentials({}, {}, tmp_path).token == "KGAT_1"
