"""What a lease promises: one holder at a time, everything it needs, and no row that is lost."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pybase64
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError, IntegrityError

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.knowledge.queue import hold
from doceval_pipeline_tests.conftest import Sample
from doceval_pipeline_tests.knowledge.processing import call, claim, claim_and_die

BatchOf = Callable[..., Sample]
WORDS = "SELECT status, count(*) FROM llm_responses GROUP BY 1 ORDER BY 1"


def staged(batch_of: BatchOf, documents: int = 1, connections: int = 1, prompts: int = 1) -> Sample:
    batch = batch_of(documents=documents, connections=connections, prompts=prompts)
    batch.stage()
    return batch


def test_a_claim_hands_over_all_that_a_processor_needs(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=2, prompts=2)
    batch.knowledge("""UPDATE batch_configs SET config = jsonb_set(config, '{batch,metadata}', '{"a": 1}')""")
    knowledge = batch.databases.knowledge
    first, second = claim(knowledge, 2, worker="worker one")
    assert (first.batch_id, first.attempt, first.delivery) == (batch.id, 1, 1)
    assert (first.prompt_text, second.prompt_text) == ("Question 0?", "Question 1?")
    assert first.file_name == "000.txt"
    assert first.metadata == {"a": 1}
    assert first.connection_details["model_name"] == "m0"
    assert first.connection_details["api_key_env"] == "SOME_KEY"
    (content,) = batch.knowledge("SELECT content FROM docs WHERE id = :row", row=first.document_id)
    assert pybase64.b64decode(content[0]) == (batch.folder / "000.txt").read_bytes()
    assert first.token != second.token
    assert batch.knowledge(
        "SELECT status, worker, deliveries, lease_token = :token, started_processing_at IS NOT NULL "
        "FROM llm_responses WHERE id = :row",
        token=first.token,
        row=first.id,
    ) == [("P", "worker one", 1, True, True)]


def test_the_name_of_a_document_is_the_first_of_its_files(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1, connections=1, prompts=1)
    (batch.folder / "a twin.txt").write_bytes((batch.folder / "000.txt").read_bytes())
    (batch.folder / "000.txt").rename(batch.folder / "b.txt")
    batch.stage()
    assert [row.file_name for row in claim(batch.databases.knowledge)] == ["a twin.txt"]


def test_many_workers_at_once_get_each_row_once(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=40, prompts=2)
    knowledge = batch.databases.knowledge

    def work(worker: int) -> list[int]:
        mine: list[int] = []
        while claimed := claim(knowledge, 1 + worker % 3, worker=str(worker)):
            mine += [row.id for row in claimed if call(knowledge, "complete", row.token)[0]]
        return mine

    with ThreadPoolExecutor(8) as pool:
        done = [row for mine in pool.map(work, range(8)) for row in mine]
    assert len(done) == len(set(done)) == 80
    assert batch.knowledge(WORDS) == [("S", 80)]
    assert batch.knowledge("SELECT DISTINCT deliveries FROM llm_responses") == [(1,)]


def test_completing_writes_a_whole_result(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    (row,) = claim(batch.databases.knowledge)
    changed, message = call(
        batch.databases.knowledge,
        "complete",
        row.token,
        overall_score=0,
        response_text="Score: 0",
        response_json="not { json",
        input_tokens=10,
        output_tokens=4,
        time_taken_seconds=2,
    )
    assert (changed, message) == (True, f"row {row.id} is S")
    assert batch.knowledge(
        "SELECT status, overall_score, response_text, response_json, input_tokens, output_tokens, "
        "time_taken_seconds, response_time_ms, tokens_per_second, error_message, "
        "completed_processing_at = timestamp, lease_expires_at FROM llm_responses"
    ) == [("S", 0, "Score: 0", "not { json", 10, 4, 2, 2000, 2, None, True, None)]


def test_the_time_that_a_result_took_is_measured_unless_it_is_given(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    (row,) = claim(batch.databases.knowledge)
    call(batch.databases.knowledge, "complete", row.token)
    assert batch.knowledge(
        "SELECT time_taken_seconds BETWEEN 0 AND 60, tokens_per_second IS NULL FROM llm_responses"
    ) == [(True, True)]


def test_failing_writes_the_reason_and_what_was_paid_for(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    (row,) = claim(batch.databases.knowledge)
    assert call(batch.databases.knowledge, "fail", row.token, "refused", input_tokens=7) == (
        True,
        f"row {row.id} is F",
    )
    assert batch.knowledge(
        "SELECT status, error_message, input_tokens, overall_score FROM llm_responses"
    ) == [("F", "refused", 7, None)]


def test_a_score_that_is_none_is_refused_and_the_lease_lasts(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    (row,) = claim(batch.databases.knowledge)
    with pytest.raises(IntegrityError, match="overall_score_check"):
        call(batch.databases.knowledge, "complete", row.token, 101)
    assert call(batch.databases.knowledge, "complete", row.token, 100)[0]


@pytest.mark.parametrize("again", ["complete", "fail", "heartbeat"])
def test_a_token_that_was_used_changes_nothing_and_says_so(batch_of: BatchOf, again: str) -> None:
    batch = staged(batch_of)
    (row,) = claim(batch.databases.knowledge)
    call(batch.databases.knowledge, "complete", row.token, 40)
    before = batch.knowledge("SELECT r::text FROM llm_responses r")
    arguments = ("late",) if again == "fail" else ()
    assert call(batch.databases.knowledge, again, row.token, *arguments) == (
        False,
        f"nothing was changed: the lease of row {row.id} is over, and the row is S",
    )
    assert batch.knowledge("SELECT r::text FROM llm_responses r") == before


def test_a_lease_that_is_over_changes_nothing_even_before_anybody_took_the_row(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    (row,) = claim_and_die(batch.databases.knowledge)
    for function, arguments in (("complete", ()), ("fail", ("late",)), ("heartbeat", ())):
        changed, message = call(batch.databases.knowledge, function, row.token, *arguments)
        assert not changed
        assert message.startswith(f"nothing was changed: the lease of row {row.id} ended at 20")
    assert batch.knowledge(WORDS) == [("P", 1)]


def test_a_superseded_token_cannot_touch_the_row_of_its_successor(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    knowledge = batch.databases.knowledge
    (first,) = claim_and_die(knowledge)
    (second,) = claim(knowledge)
    assert (second.id, second.delivery) == (first.id, 2)
    late = f"nothing was changed: row {first.id} was delivered to another worker since"
    assert call(knowledge, "complete", first.token, 1) == (False, late)
    assert call(knowledge, "fail", first.token, "late", retry=True) == (False, late)
    assert call(knowledge, "complete", second.token, 2)[0]
    assert call(knowledge, "complete", first.token, 1) == (False, late)
    assert batch.knowledge("SELECT overall_score FROM llm_responses") == [(2,)]


def test_a_token_that_nobody_was_given_is_told_apart(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    nobody = "00000000-0000-0000-0000-000000000000"
    assert call(batch.databases.knowledge, "complete", nobody) == (
        False,
        "nothing was changed: there is no such lease",
    )


def test_a_heartbeat_keeps_the_row(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    knowledge = batch.databases.knowledge
    (row,) = claim(knowledge, lease="1 minute")
    changed, message = call(knowledge, "heartbeat", row.token, "2 hours")
    assert changed
    assert message.startswith("the lease ends at 20")
    assert batch.knowledge("SELECT lease_expires_at > now() + interval '119 minutes' FROM llm_responses") == [
        (True,)
    ]
    assert claim(knowledge) == []


def test_the_next_claim_returns_a_row_whose_lease_is_over_although_others_wait(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=30)
    knowledge = batch.databases.knowledge
    # In all sessions of the pool, each of which remembers when it looked last.
    claim(knowledge), claim(knowledge)
    (lost,) = claim(knowledge, lease="1 second")
    time.sleep(1.01)
    (found,) = claim(knowledge)
    assert (found.id, found.delivery) == (lost.id, 2)


def test_after_five_deliveries_a_row_fails_with_the_reason_and_the_batch_completes(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=2)
    knowledge = batch.databases.knowledge
    for delivery in range(1, 6):
        assert [row.delivery for row in claim_and_die(knowledge, 2)] == [delivery] * 2
    assert claim(knowledge) == []
    poll(batch.databases)
    assert batch.status() == "FAILED"
    assert batch.knowledge("SELECT DISTINCT status, error_message, completed_processing_at IS NULL "
                           "FROM llm_responses") == [
        (
            "F",
            "given up after 5 deliveries, the last of which ended with its lease, without a result",
            False,
        )
    ]  # fmt: skip


def test_a_tick_returns_rows_whose_processors_died(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=2)
    claim_and_die(batch.databases.knowledge, 2)
    (seen,) = poll(batch.databases).open
    assert (seen.cells.waiting, seen.cells.running) == (2, 0)


def test_a_row_that_is_given_back_is_delivered_again_five_times_at_most(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    knowledge = batch.databases.knowledge
    for delivery in range(1, 6):
        (row,) = claim(knowledge)
        assert row.delivery == delivery
        word = "QUEUED" if delivery < 5 else "F"
        assert call(knowledge, "fail", row.token, "overloaded", retry=True) == (
            True,
            f"row {row.id} is {word}",
        )
    assert batch.knowledge("SELECT error_message FROM llm_responses") == [
        ("given up after 5 deliveries, the last of which failed: overloaded",)
    ]


def test_a_row_that_is_given_back_does_not_keep_others_from_their_turn(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=4)
    knowledge = batch.databases.knowledge
    (given_back,) = claim(knowledge)
    call(knowledge, "fail", given_back.token, "overloaded", retry=True)
    order = [row.id for _ in range(4) for row in claim(knowledge)]
    assert given_back.id in order[1:3]
    assert len(set(order)) == 4


@pytest.mark.parametrize(
    ("rows", "lease"), [(0, "1 minute"), (10_001, "1 minute"), (1, "0"), (1, "-1 s"), (1, "25 h")]
)
def test_a_claim_without_sense_is_refused(batch_of: BatchOf, rows: int, lease: str) -> None:
    batch = staged(batch_of)
    with pytest.raises(DataError, match=r"a claim is for 1 to 10000 rows|at most a day"):
        claim(batch.databases.knowledge, rows, lease)
    assert batch.knowledge(WORDS) == [("QUEUED", 1)]


def test_a_claim_that_is_rolled_back_is_not_lost(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=20)
    knowledge = batch.databases.knowledge
    with knowledge.connect() as forgetful:
        rolled_back = {row[0] for row in forgetful.execute(text("SELECT id FROM claim_responses(3)"))}
        # The queue has moved on by the time that the rows wait again.
        others = {row.id for row in claim(knowledge, 10)}
        forgetful.rollback()
    assert not rolled_back & others
    poll(batch.databases)
    assert {row.id for row in claim(knowledge, 3)} == rolled_back, "the tick put them at the head"


def test_a_claim_that_is_rolled_back_is_found_without_a_tick_where_nothing_else_waits(
    batch_of: BatchOf,
) -> None:
    batch = staged(batch_of, documents=5)
    knowledge = batch.databases.knowledge
    with knowledge.connect() as forgetful:
        forgetful.execute(text("SELECT id FROM claim_responses(2)"))
        assert len(claim(knowledge, 5)) == 3
        forgetful.rollback()
    assert len(claim(knowledge, 5)) == 2


def test_rows_that_were_queued_in_a_long_transaction_are_found(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=10)
    knowledge = batch.databases.knowledge
    with knowledge.connect() as slow:
        slow.execute(
            text(
                "INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, "
                "connection_details) SELECT 4711, id, 1, 1, '{}' FROM docs LIMIT 3"
            )
        )
        claim(knowledge, 9)
        slow.commit()
    # Their places are behind the virtual time by now.
    poll(batch.databases)
    assert [row.batch_id for row in claim(knowledge, 3)] == [4711] * 3


def test_a_row_that_somebody_holds_is_skipped_and_not_waited_for(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=2)
    knowledge = batch.databases.knowledge
    with knowledge.connect() as plain:
        plain.execute(text("SELECT id FROM llm_responses ORDER BY id LIMIT 1 FOR UPDATE"))
        assert len(claim(knowledge, 2)) == 1
        plain.rollback()
    assert len(claim(knowledge, 2)) == 1


def test_a_claim_does_not_wait_for_somebody_who_pauses_the_batch(batch_of: BatchOf) -> None:
    batch = staged(batch_of, documents=3)
    knowledge = batch.databases.knowledge
    claim_and_die(knowledge)
    with knowledge.connect() as pausing:
        hold(pausing, batch.id)
        with knowledge.begin() as other:
            other.execute(text("SET LOCAL statement_timeout = '5 s'"))
            assert other.execute(text("SELECT * FROM claim_responses(3)")).all() == []
        pausing.commit()
    poll(batch.databases)
    assert batch.knowledge(WORDS) == [("PAUSED", 3)]


def test_rows_of_a_batch_without_a_configuration_come_back_too(batch_of: BatchOf) -> None:
    batch = staged(batch_of)
    batch.knowledge("DELETE FROM batch_configs")
    (row,) = claim_and_die(batch.databases.knowledge)
    assert row.prompt_text is None
    assert [again.delivery for again in claim(batch.databases.knowledge)] == [2]
