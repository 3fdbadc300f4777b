"""The formats that a session reads and writes change nothing that is stored, counted or waited for."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from doceval_pipeline.batches.databases import DOC_EVAL, KNOWLEDGE, Databases, database_url, open_databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.report_input import gather
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.knowledge.processing import call, claim, claim_and_die

BatchOf = Callable[..., Sample]
ODD = {
    "Kolkata": "-c DateStyle=SQL,DMY -c TimeZone=Asia/Kolkata",
    "German": "-c DateStyle=German -c TimeZone=America/St_Johns -c IntervalStyle=sql_standard",
    "Postgres": "-c DateStyle=Postgres,MDY -c TimeZone=Pacific/Chatham -c IntervalStyle=iso_8601",
    "digits": "-c extra_float_digits=-15 -c bytea_output=escape",
    "isolation": "-c default_transaction_isolation=serializable -c default_transaction_deferrable=on",
    "settings": "-c standard_conforming_strings=off -c array_nulls=off -c transform_null_equals=on",
    "search_path": "-c search_path=pg_catalog,public,pg_temp",
}
EACH = pytest.mark.parametrize("options", ODD.values(), ids=ODD)


def oddly_opened(databases: Databases, options: str) -> Databases:
    """The same databases, in sessions whose server, role or database defaults to other formats."""

    def url(database: tuple[str, str, str]) -> str:
        given = make_url(database_url(databases.settings, database))
        return given.update_query_dict({"options": options}).render_as_string(hide_password=False)

    return open_databases(
        replace(databases.settings, doc_eval_url=url(DOC_EVAL), knowledge_documents_url=url(KNOWLEDGE))
    )


@EACH
def test_a_processor_with_odd_formats_gets_what_every_processor_gets(batch_of: BatchOf, options: str) -> None:
    batch = batch_of(documents=5, connections=1, prompts=1)
    batch.stage()
    url = make_url(database_url(batch.databases.settings, KNOWLEDGE))
    engine = create_engine(url, connect_args={"options": options}, pool_size=1, max_overflow=0)
    try:
        (row,) = claim(engine)
        with engine.connect() as connection:
            ahead = connection.scalar(
                text(
                    "SELECT current_setting('llm_responses.next_look')::bigint / 1e6 "
                    "- extract(epoch FROM clock_timestamp())"
                )
            )
        assert -5 < float(ahead or 99) <= 1
        changed, message = call(engine, "heartbeat", row.token)
        assert changed
        assert message.startswith("the lease ends at 2")
        assert message.endswith("Z")
        assert call(engine, "complete", row.token, 87.3, time_taken_seconds=0.1)[0]
        assert not call(engine, "complete", row.token)[0]
        (late,) = claim_and_die(engine)
        assert [again.id for again in claim(engine)] == [late.id]
        (given_back,) = claim(engine)
        with engine.begin() as connection:
            connection.execute(
                text("SELECT fail_response(:t, 'busy', retry => true)"), {"t": given_back.token}
            )
    finally:
        engine.dispose()
    assert batch.knowledge(
        "SELECT overall_score, time_taken_seconds FROM llm_responses WHERE status = 'S'"
    ) == [(87.3, 0.1)]
    assert batch.knowledge(
        "SELECT count(*) FROM llm_responses WHERE lease_expires_at > now() + interval '61 minutes'"
    ) == [(0,)]


@EACH
def test_a_pipeline_with_odd_defaults_stages_counts_and_reports_the_same(
    batch_of: BatchOf, options: str
) -> None:
    batch = batch_of(documents=3, connections=1, prompts=2)
    odd = oddly_opened(batch.databases, options)
    Sample(odd, batch.id, batch.name, batch.folder).stage()
    batch.knowledge(
        "UPDATE llm_responses SET status = 'S', overall_score = 0.1::float8 + 0.2, response_text = 'x', "
        "time_taken_seconds = 1.0 / 3, input_tokens = 5, completed_processing_at = now()"
    )
    poll(odd)
    assert batch.status() == "COMPLETED"
    usual, found = gather(batch.databases, batch.id), gather(odd, batch.id)
    assert found == usual
    odd.doc_eval.dispose()
    odd.knowledge.dispose()
