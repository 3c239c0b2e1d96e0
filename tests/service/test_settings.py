"""Settings that can't be are refused, and what is listened on without keys."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.removed_options import check_removed
from service.settings import Settings

KEY = "correct-horse-battery"


def test_without_keys_only_this_machine_is_listened_to() -> None:
    def listens_on(**given: Any) -> str:
        return Settings.model_validate(given).listens_on

    for host in ("127.0.0.1", "127.0.0.9", "::1", "localhost"):
        assert listens_on(host=host) == host
    for host in ("0.0.0.0", "::", "192.0.2.1", "folio.example"):  # noqa: S104 - that is the question
        assert listens_on(host=host) == "127.0.0.1"
        assert listens_on(host=host, api_keys=KEY) == host
        assert listens_on(host=host, without_keys=True) == host


@pytest.mark.parametrize("name", ["short", "with a blank in it is two", "ключ-из-чужих-букв"])
def test_keys_that_are_easily_guessed_or_cannot_be_sent_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="at least 16 characters") as refused:
        Settings.model_validate({"api_keys": f"{KEY},{name}"})
    assert KEY not in str(refused.value), "an error is shown and logged"


def test_keys_come_from_the_variable_and_the_file_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text(f"{KEY}-1\n# none\n\n{KEY}-2 # somebody's\n")
    monkeypatch.setenv("SERVICE_API_KEYS", f"{KEY}-3,{KEY}-4 {KEY}-5")
    monkeypatch.setenv("SERVICE_API_KEYS_FILE", str(tmp_path / "keys"))
    assert sorted(Settings().keys) == [f"{KEY}-{i}" for i in range(1, 6)]
    assert KEY not in repr(Settings())


def test_a_comment_in_the_file_begins_after_a_blank_only(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(f"\ufeff{KEY}-1#part\r\n\t# für wen\n{KEY}-2\t#\u2028none\n".encode())
    assert Settings(api_keys_file=tmp_path / "keys").keys == [f"{KEY}-1#part", f"{KEY}-2"]


@pytest.mark.parametrize("line", [f"{KEY},{KEY}", f"{KEY} {KEY}", "short", f"{KEY}é", f"\ufeff{KEY}"])
def test_what_is_no_key_in_the_file_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "keys").write_text(f"# two\n{KEY}-1\n{line}\n", encoding="utf-8")
    with pytest.raises(ValidationError, match=r"keys, line 3: an API key needs at least 16 characters") as refused:
        Settings(api_keys_file=tmp_path / "keys")
    assert KEY not in str(refused.value)
    (tmp_path / "keys").write_text(f"{KEY}\n", encoding="utf-16")
    with pytest.raises(ValidationError, match="keys, line 1: an API key"):
        Settings(api_keys_file=tmp_path / "keys")


def test_a_file_that_holds_no_key_or_is_not_there_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# to be done\n")
    with pytest.raises(ValidationError, match="holds no API key"):
        Settings(api_keys_file=tmp_path / "keys")
    with pytest.raises(ValidationError, match="No such file"):
        Settings(api_keys_file=tmp_path / "absent")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("rate_limit", "10", "is not a rate"), ("rate_limit", "ten/second", "is not a rate"),
        ("rate_limit", "5/second; x", "is not a rate"),
        ("rate_limit", "0/second", "at least 1 request"), ("rate_limit", "10/0 second", "in 1 second to 1 year"),
        ("rate_limit", "10/second; 5 per 00 hour", "in 1 second"), ("rate_limit", "1/99999999999999 year", "to 1 year"),
        ("cors_origins", "example.org", "is not an origin"), ("cors_origins", "https://example.org/page", "is not an origin"),
        ("allowed_hosts", "http://folio.example", "is not a host"), ("allowed_hosts", "folio.example:8000", "is not a host"),
        ("allowed_hosts", "a.*.example", "is not a host"),
        ("trusted_proxies", "nginx", "is not an address"), ("trusted_proxies", "10.0.0.1/8", "is not an address"),
    ],
)  # fmt: skip
def test_what_is_no_rate_origin_or_address_is_said_with_what_would_be(field: str, value: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings.model_validate({field: value})


def test_a_switch_needs_no_value_and_its_variable_does(monkeypatch: pytest.MonkeyPatch) -> None:
    switches = CliApp.run(Settings, cli_args=["--without-keys", "--log-prompts", "--tracing"])
    assert (switches.without_keys, switches.log_prompts, switches.tracing) == (True, True, True)
    assert not CliApp.run(Settings, cli_args=[]).without_keys
    monkeypatch.setenv("SERVICE_WITHOUT_KEYS", "true")
    assert CliApp.run(Settings, cli_args=["--port", "1"]).without_keys


@pytest.mark.parametrize(
    "given", [{"auto_tools": "call f"}, {"auto_tools": "context"}, {"metrics_prefix": "1a"}, {"metrics_prefix": "é:"}]
)
def test_an_option_that_only_contains_what_would_be_valid_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**given)


@pytest.mark.parametrize("rate", ["10/second", "100 per 10 minutes", "20/second;300/minute", "1/year"])
def test_what_is_a_rate_is_taken(rate: str) -> None:
    assert Settings(rate_limit=rate).rate_limit == rate


def test_an_empty_variable_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings().model_dump(exclude={"secret"})
    for name in Settings.model_fields:
        monkeypatch.setenv(f"SERVICE_{name.upper()}", "")
    assert Settings().model_dump(exclude={"secret"}) == given
    assert len(CliApp.run(Settings, cli_args=["--port", "1"]).secret.get_secret_value()) >= 16


def test_a_secret_that_is_too_short_is_refused_with_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_SECRET", "tell no one")
    with pytest.raises(ValidationError, match="a secret needs at least 16 characters") as refused:
        Settings()
    assert "tell no one" not in str(refused.value)


def test_an_option_of_an_earlier_release_is_refused_with_what_became_of_it() -> None:
    check_removed(["--backend", "native"], {"SERVICE_BACKEND": "native", "SERVICE_PRECISION": ""})
    for arguments in (["--decoder", "openvino"], ["--decoder=native"]):
        with pytest.raises(ValueError, match="--decoder was removed: it is --backend now"):
            check_removed(arguments, {})
    with pytest.raises(ValueError, match="SERVICE_PRECISION was removed: every backend computes exactly, with int8 weights"):
        check_removed([], {"SERVICE_PRECISION": "bf16"})
