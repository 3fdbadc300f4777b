"""The environment is read in one place, and what cannot be used is refused by name."""

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
        ("DOCEVAL_KEEP_DAYS", "0"),
        ("DOCEVAL_KEEP_DAYS", "a month"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name) as caught:
        Settings.from_environment({name: value})
    assert "hunter2" not in str(caught.value)


def test_a_password_is_not_shown_with_the_settings() -> None:
    settings = Settings.from_environment({"DAGSTER_POSTGRES_URL": "postgresql://u:hunter2@h/d"})
    assert "hunter2" not in repr(settings)
