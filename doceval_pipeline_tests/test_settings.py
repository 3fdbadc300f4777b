"""Settings come from the environment, and invalid variables are refused by name."""

import re
from pathlib import Path

import pytest

from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import MIB, Settings


def test_without_variables_everything_is_in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.from_environment({})
    assert settings.home == Path(__file__).resolve().parents[1] / ".doceval"
    assert (settings.doc_eval_url, settings.dagster_url, settings.max_document_bytes) == (
        None,
        None,
        50 * MIB,
    )


@pytest.mark.parametrize(
    "given", ["postgresql+psycopg2://u:p@h/d", "postgresql://u:p@h/d", "postgres://u:p@h/d"]
)
def test_every_url_gets_the_driver_that_dagster_needs(given: str) -> None:
    assert Settings.from_environment({"DOC_EVAL_URL": given}).doc_eval_url == "postgresql+psycopg2://u:p@h/d"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DOC_EVAL_URL", "mysql://u:hunter2@h/d"),
        ("KNOWLEDGE_DOCUMENTS_URL", "hunter2"),
        ("DOCEVAL_MAX_DOCUMENT_BYTES", "50MB"),
        ("DOCEVAL_MAX_DOCUMENT_BYTES", "0"),
        ("DOCEVAL_MAX_DOCUMENT_BYTES", "768000001"),
        ("DOCEVAL_MIGRATE", "no"),
        ("DOCEVAL_READERS", "0"),
        ("DOCEVAL_READERS", "257"),
        ("DOCEVAL_READERS", "all"),
        ("DOCEVAL_KEEP_DAYS", "0"),
        ("DOCEVAL_KEEP_DAYS", "a month"),
        ("DOCEVAL_WEBHOOK_URL", "hunter2"),
        ("DOCEVAL_WEBHOOK_URL", "ftp://example.com/hunter2"),
        ("DOCEVAL_WEBHOOK_URL", "https://example.com/a b?hunter2"),
        ("DOCEVAL_WEBHOOK_URL", "https://example.com:99999/hunter2"),
        ("DOCEVAL_WEBHOOK_URL", "http://example.com/hunter2"),
        ("DOCEVAL_WEBHOOK_URL", "http://127.0.0.1.example.com/hunter2"),
        ("DOCEVAL_UI_URL", "javascript:hunter2"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as caught:
        Settings.from_environment({name: value})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "legal",
        "team:",
        "team: ",
        "a@b",
        "a@b.c, team:x, @",
        "team:x\ny",
        "team:" + "x" * 99,
        "a@example.orgé",
    ],
)
def test_owners_that_dagster_does_not_take_are_refused_in_one_line(value: str) -> None:
    settings = Settings.from_environment({"DOCEVAL_OWNERS": value})
    with pytest.raises(ConfigurationError, match="DOCEVAL_OWNERS") as caught:
        _ = settings.owners
    assert len(str(caught.value).splitlines()) == 1


def test_owners_are_a_bounded_number() -> None:
    assert Settings.from_environment({"DOCEVAL_OWNERS": ""}).owners == ()
    settings = Settings.from_environment({"DOCEVAL_OWNERS": ",".join(f"team:{n}" for n in range(21))})
    with pytest.raises(ConfigurationError, match="names 21 owners"):
        _ = settings.owners


def test_a_password_is_not_shown_with_the_settings() -> None:
    settings = Settings.from_environment({"DAGSTER_POSTGRES_URL": "postgresql://u:hunter2@h/d"})
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    "secret", ["", "hunter2", "whsec_hunter2", "whsec_aHVudGVyMg==", "whsec_" + "A" * 200]
)
def test_a_webhook_without_a_strong_secret_is_refused(secret: str) -> None:
    given = {"DOCEVAL_WEBHOOK_URL": "https://example.com/", "DOCEVAL_WEBHOOK_SECRET": secret}
    with pytest.raises(ConfigurationError, match="DOCEVAL_WEBHOOK_SECRET must be") as caught:
        Settings.from_environment(given)
    assert not secret or secret.removeprefix("whsec_") not in str(caught.value)


@pytest.mark.parametrize("url", ["https://u:hunter2@h/x", "http://localhost:1/x", "http://[::1]/x"])
def test_neither_address_nor_secret_of_a_webhook_is_shown_with_the_settings(url: str) -> None:
    secret = "whsec_" + "A" * 32
    settings = Settings.from_environment({"DOCEVAL_WEBHOOK_URL": url, "DOCEVAL_WEBHOOK_SECRET": secret})
    assert (settings.webhook_url, settings.webhook_secret) == (url, secret)
    assert not {url, secret, "hunter2"} & set(re.split(r"['\", ]", repr(settings)))
    assert "hunter2" not in repr(settings)


def test_hosts_are_names_and_addresses_as_a_host_header_has_them() -> None:
    given = " Doceval.Example.org, 10.0.0.7 ,fd00::1,[FD00:0::2], web_server"
    hosts = Settings.from_environment({"DOCEVAL_UI_HOSTS": given}).ui_hosts
    assert hosts == {"doceval.example.org", "10.0.0.7", "[fd00::1]", "[fd00::2]", "web_server"}
    assert Settings.from_environment({"DOCEVAL_UI_HOSTS": " , "}).ui_hosts == set()


@pytest.mark.parametrize(
    "value",
    [
        "*",
        "*.example.org",
        "https://doceval.example.org",
        "doceval.example.org:3000",
        "doceval.example.org/",
        "me@doceval.example.org",
        "0.0.0.0",
        "[::]",
        "127.1",
        "doceval.0x7f",
        "fe80::1%lo",
        "a b",
        "a..b",
        "-a",
        "doceval.example.org.",
        "dócêval.example.org",
        "x" * 64,
        "10.0.0.7\nevil",
        ",".join(f"host-{n}" for n in range(51)),
    ],
)
def test_hosts_that_are_none_are_refused_in_one_line(value: str) -> None:
    settings = Settings.from_environment({"DOCEVAL_UI_HOSTS": value})
    with pytest.raises(ConfigurationError, match="DOCEVAL_UI_HOSTS") as caught:
        _ = settings.ui_hosts
    assert len(str(caught.value).splitlines()) == 1
