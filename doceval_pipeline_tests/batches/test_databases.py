"""A database that cannot be reached is told by its variable, and never with its password."""

import logging
import traceback
from dataclasses import replace

import pytest

from doceval_pipeline.batches.databases import open_databases
from doceval_pipeline.errors import DocEvalError
from doceval_pipeline.settings import Settings

PASSWORD = "canary"


@pytest.mark.parametrize(
    "after_user",
    [
        f":{PASSWORD}@127.0.0.1:1/db",
        f":p@{PASSWORD}@127.0.0.1:1/db",
        f":p@ss:{PASSWORD}@127.0.0.1:1/db",
        f":p:{PASSWORD}@[127.0.0.1/db",
        f":p/{PASSWORD}@127.0.0.1:1/db",
        f":p@/{PASSWORD}@127.0.0.1:1/db",
        f":p#{PASSWORD}%zz@127.0.0.1:1/db",
        f"@127.0.0.1:1/db?password={PASSWORD}",
        f"@127.0.0.1:1/db?passwort={PASSWORD}",
        f"@127.0.0.1:1/db?sslpassword={PASSWORD}&sslmode=nonsense",
    ],
)
@pytest.mark.parametrize("variable", ["doc_eval_url", "knowledge_documents_url"])
def test_no_part_of_a_password_is_told(
    settings: Settings, caplog: pytest.LogCaptureFixture, variable: str, after_user: str
) -> None:
    url = f"postgresql+psycopg2://user{after_user}"
    with caplog.at_level(logging.DEBUG), pytest.raises(DocEvalError, match=variable.upper()) as caught:
        open_databases(replace(settings, **{variable: url}))
    assert len(str(caught.value).splitlines()) == 1
    told = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in told.replace(__file__, "") + caplog.text
