"""A key in a processor's reason for a failure does not reach the table; results are kept as they are."""

from collections.abc import Callable

import pytest
from sqlalchemy import text

from doceval_pipeline.redaction import KEY, without_keys
from doceval_pipeline_tests import secret_canaries
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.knowledge.processing import call, claim

BatchOf = Callable[..., Sample]
MESSAGE = (
    f"401: incorrect API key provided: {secret_canaries.KEY}. See https://u:{secret_canaries.PASSWORD}@h/"
)
SHOWN = "401: incorrect API key provided: (key not shown). See (key not shown)h/"
SEEN = "SELECT error_message FROM llm_responses WHERE id = {}"


@pytest.fixture
def batch(batch_of: BatchOf) -> Sample:
    made = batch_of(documents=3, connections=1, prompts=1)
    made.stage()
    return made


def test_a_key_in_a_reason_is_replaced_on_each_way_into_the_table(batch: Sample) -> None:
    knowledge = batch.databases.knowledge
    failed, again, plain = claim(knowledge, rows=3)
    call(knowledge, "fail", failed.token, MESSAGE)
    call(knowledge, "fail", again.token, MESSAGE, retry=True)
    call(knowledge, "fail", plain.token, "first")
    batch.plant(f"UPDATE llm_responses SET status = 'P' WHERE id = {plain.id}")
    batch.knowledge(
        f"UPDATE llm_responses SET status = 'F', error_message = :m WHERE id = {plain.id}", m=MESSAGE
    )
    assert batch.knowledge(SEEN.format(failed.id)) == [(SHOWN,)]
    assert batch.knowledge(SEEN.format(again.id)) == [(None,)]
    assert batch.knowledge(SEEN.format(plain.id)) == [(SHOWN,)]


def test_a_response_is_kept_as_it_is_whatever_it_quotes(batch: Sample) -> None:
    knowledge = batch.databases.knowledge
    (row,) = claim(knowledge)
    call(knowledge, "complete", row.token, 50, response_text=MESSAGE, response_json=MESSAGE)
    kept = batch.knowledge(f"SELECT response_text, response_json FROM llm_responses WHERE id = {row.id}")
    assert kept == [(MESSAGE, MESSAGE)]


def test_the_database_knows_keys_by_the_same_pattern(batch: Sample) -> None:
    ((arguments,),) = batch.knowledge("SELECT tgargs FROM pg_trigger WHERE tgname = 'hide_keys'")
    assert bytes(arguments) == KEY.encode() + b"\0"


@pytest.mark.parametrize(
    "message",
    [
        *(
            f"key {key}!"
            for key in (secret_canaries.KEY, secret_canaries.AWS_KEY, secret_canaries.JSON_WEB_TOKEN)
        ),
        f"({secret_canaries.KEY}) and '{secret_canaries.KEY}'",
        "Authorization: Bearer canary0123456789",
        "basic Y2FuYXJ5OmNhbmFyeQ==",
        "hf_canaryCANARY0123456",
        "desk-0123456789abcdef0123 and task-force and sk-learn-models-2024",
        "AKIA and eyJ. and Bearer of bad news",
        "ключ sk-0123456789abcdef0123 ключ",
        "-sk-" * 30_000,
    ],
)
def test_the_database_and_the_pipeline_hide_the_same(batch: Sample, message: str) -> None:
    (row,) = claim(batch.databases.knowledge)
    with batch.databases.knowledge.begin() as connection:
        connection.execute(text("SET LOCAL statement_timeout = '20 s'"))
        connection.execute(text("SELECT fail_response(:t, CAST(:m AS text))"), {"t": row.token, "m": message})
    assert batch.knowledge(SEEN.format(row.id)) == [(without_keys(message),)]
