"""Insights of a report: the latest overlapping batch, costs, groups of failures, long texts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results import report_input
from doceval_pipeline.batches.results.costs import add_up_costs
from doceval_pipeline.batches.results.report_input import gather
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.schema import Prices
from doceval_pipeline.domain.insights import Provenance, SincePrevious
from doceval_pipeline.domain.results import FailureGroup, Total
from doceval_pipeline.domain.usage import Cost, ProcessingTime, TokenUsage
from doceval_pipeline_tests.conftest import Sample, evaluation_of, write_old

BatchOf = Callable[..., Sample]


def completed_over(databases: Databases, folder: Path, name: str, score: str, connections: int = 2) -> Sample:
    """A completed batch over a folder; `score` is an SQL expression."""
    located = evaluation_of([{"name": name, "folders": [str(folder)]}], connections, 1)
    batch = Sample(databases, apply_evaluation(databases.doc_eval, located).numbers[name], name, folder)
    batch.stage()
    answer(batch, score)
    return batch


def answer(batch: Sample, score: str) -> None:
    batch.knowledge(f"UPDATE llm_responses SET status = 'S', overall_score = {score} WHERE batch_id = :id")
    poll(batch.databases)
    assert batch.status() == "COMPLETED"


def previous_of(batch: Sample) -> SincePrevious | None:
    return gather(batch.databases, batch.id).insights.previous


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    for number in range(6):
        write_old(folder / f"{number}.txt", f"document {number}\n")
    return folder


def test_a_batch_is_compared_with_the_newest_earlier_one_over_the_same_documents(
    databases: Databases, folder: Path
) -> None:
    first = completed_over(databases, folder, "first", "10")
    second = completed_over(databases, folder, "second", "document_id % 2 * 60 + connection_id % 2")
    (folder / "0.txt").unlink()
    write_old(folder / "new.txt", "a new document\n")
    third = completed_over(databases, folder, "third", "70")
    found = previous_of(third)
    assert found is not None
    assert (found.partition_key, found.name, found.shared_documents) == (second.key, "second", 5)
    assert len(found.columns) == found.shared_columns == 2
    for moved in found.columns:
        assert moved.changed == ()
        assert moved.changes.difference.n == moved.changes.rose == 5
        assert {flip.document for flip in moved.changes.flips} == {f"{n}.txt" for n in range(1, 6)}
    before = previous_of(second)
    assert before is not None
    assert before.partition_key == first.key
    assert previous_of(first) is None


def test_changed_settings_are_named(databases: Databases, folder: Path) -> None:
    completed_over(databases, folder, "before", "10")
    databases_changes = Sample(databases, 0, "", folder)
    databases_changes.doc_eval("UPDATE prompts SET prompt_text = 'Another question?'")
    databases_changes.doc_eval(
        "UPDATE connections SET connection_config = '{\"temperature\": 1}', api_key_env = 'OTHER_KEY' "
        "WHERE name = 'model-1'"
    )
    batch = completed_over_again(databases, folder)
    found = previous_of(batch)
    assert found is not None
    assert [moved.changed for moved in found.columns] == [("prompt text",), ("prompt text", "connection")]


def completed_over_again(databases: Databases, folder: Path) -> Sample:
    """A batch with the connections and prompts as they are now in doc_eval."""
    batch = Sample(databases, 0, "again", folder)
    (made,) = batch.doc_eval("""
        WITH made AS (
            INSERT INTO batches (batch_number, batch_name)
            SELECT max(batch_number) + 1, 'again' FROM batches RETURNING id),
        folders AS (INSERT INTO batch_folders SELECT made.id, f.id FROM made, folders f),
        connections AS (INSERT INTO batch_connections SELECT made.id, c.id FROM made, connections c),
        prompts AS (INSERT INTO batch_prompts SELECT made.id, p.id FROM made, prompts p)
        SELECT id FROM made
    """)
    batch.id = made[0]
    batch.stage()
    answer(batch, "20")
    return batch


@pytest.mark.parametrize(
    "apart",
    [
        "UPDATE batches SET status = 'FAILED' WHERE batch_name = 'before'",
        "UPDATE batches SET archived_at = now(), archive_file = 'x', archive_sha256 = repeat('0', 64) "
        "WHERE batch_name = 'before'",
        "UPDATE batch_documents SET state = 'ASSIGNED', knowledge_document_id = NULL WHERE batch_id <> :id",
        "DELETE FROM batch_prompts WHERE batch_id <> :id",
        "DELETE FROM batch_connections WHERE batch_id <> :id",
    ],
)
def test_a_batch_that_shares_nothing_or_did_not_complete_is_not_overlapping(
    databases: Databases, folder: Path, apart: str
) -> None:
    completed_over(databases, folder, "before", "10")
    batch = completed_over(databases, folder, "after", "10")
    assert previous_of(batch) is not None
    batch.doc_eval(apart)
    assert previous_of(batch) is None


def test_documents_below_a_threshold_are_listed_with_the_interval_of_their_attempts(
    databases: Databases, folder: Path
) -> None:
    batch = completed_over(databases, folder, "judged", "CASE document_id % 2 WHEN 0 THEN 62 ELSE 30 END")
    batch.doc_eval("UPDATE prompts SET threshold = 60")
    assert "margin" not in gather(databases, batch.id).config["batch"]
    repeated = batch.knowledge("""
        WITH again AS (
            UPDATE llm_responses SET attempt = 2 WHERE id = (
                SELECT min(id) FROM llm_responses WHERE batch_id = :id AND overall_score = 62)
            RETURNING *)
        INSERT INTO llm_responses (batch_id, document_id, connection_id, prompt_id, attempt, status,
                                   connection_details, overall_score, superseded_at)
        SELECT batch_id, document_id, connection_id, prompt_id, 1, 'S', '{}', 58, now() FROM again
        RETURNING document_id, connection_id
    """)
    (below,) = gather(databases, batch.id).insights.below_thresholds
    assert (below.threshold, below.documents, below.scored) == (60.0, 3, 6)
    assert {count for _, count in below.by_connection} == {3}
    assert all(low.document.endswith(".txt") and len(low.scores) == 2 for low in below.lowest)
    assert below.all_near == len(below.near) == 6
    means = {(near.document_id, near.connection_id): near.repeated for near in below.near}
    assert [key for key, mean in means.items() if mean is not None] == [tuple(row) for row in repeated]
    (mean,) = (mean for mean in means.values() if mean is not None)
    assert (mean.n, mean.mean) == (2, 60.0)


def test_the_overall_ranking_and_the_margin_come_with_weights_and_the_sealed_margin(
    databases: Databases, folder: Path
) -> None:
    located = evaluation_of([{"name": "weighed", "folders": [str(folder)], "margin": 5}], 2, 2)
    number = apply_evaluation(databases.doc_eval, located).numbers["weighed"]
    batch = Sample(databases, number, "weighed", folder)
    batch.stage()
    batch.doc_eval("UPDATE prompts SET weight = id")
    answer(batch, "50 + 10 * connection_id % 3 + document_id % 7")
    insights = gather(databases, batch.id).insights
    assert insights.margin == 5
    assert [len(board.standings) for board in insights.leaderboards] == [2, 2]
    assert insights.overall is not None
    assert [prompt for prompt, _ in insights.overall.weights] == [
        board.prompt_id for board in insights.leaderboards
    ]
    assert {standing.usage.cost for standing in insights.overall.standings} == {None}


def test_the_usage_of_each_model_is_that_of_its_own_evaluations(databases: Databases, folder: Path) -> None:
    located = evaluation_of([{"name": "used", "folders": [str(folder)]}], 2, 1)
    batch = Sample(databases, apply_evaluation(databases.doc_eval, located).numbers["used"], "used", folder)
    batch.stage()
    batch.doc_eval(
        """UPDATE connections SET prices = '{"input_per_million": 2, "output_per_million": 0}'
        WHERE name = 'model-0'"""
    )
    batch.knowledge(
        "UPDATE llm_responses SET input_tokens = connection_id * 1000, time_taken_seconds = connection_id, "
        "status = 'S', overall_score = 50 WHERE batch_id = :id"
    )
    poll(batch.databases)
    (board,) = gather(databases, batch.id).insights.leaderboards
    assert len(board.standings) == 2
    for standing in board.standings:
        id_, usage = standing.connection_id, standing.usage
        assert (usage.cells, usage.input_tokens, usage.output_tokens) == (6, Total(6_000 * id_, 6), None)
        assert usage.seconds == ProcessingTime(6, id_, id_)
    first, second = sorted(board.standings, key=lambda standing: standing.connection_id)
    assert first.usage.cost is not None
    assert first.usage.cost_per_document == pytest.approx(0.002 * first.connection_id)
    assert second.usage.cost is None, "unknown is not 0"


def test_the_time_of_a_model_is_that_of_its_successes_and_of_possible_numbers(
    databases: Databases, folder: Path
) -> None:
    located = evaluation_of([{"name": "timed", "folders": [str(folder)]}], 1, 1)
    batch = Sample(databases, apply_evaluation(databases.doc_eval, located).numbers["timed"], "timed", folder)
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses SET status = CASE document_id % 2 WHEN 0 THEN 'S' ELSE 'F' END, "
        "overall_score = CASE document_id % 2 WHEN 0 THEN 50 END, "
        "response_time_ms = CASE WHEN id = (SELECT max(id) FROM llm_responses WHERE document_id % 2 = 0) "
        "THEN 2147483647 ELSE 100 + 2000 * (1 - document_id % 2) END WHERE batch_id = :id"
    )
    poll(batch.databases)
    insights = gather(databases, batch.id).insights
    (board,) = insights.leaderboards
    assert board.standings[0].usage.seconds == ProcessingTime(2, 2.1, 2.1)
    assert insights.seconds is not None
    assert insights.seconds.n == 5


def test_evaluations_without_tokens_or_prices_are_unpriced() -> None:
    prices = {
        1: Prices(input_per_million=2.0, output_per_million=10.0),
        2: Prices(input_per_million=3.0, output_per_million=0, currency="EUR"),
        3: Prices(input_per_million=0, output_per_million=5.0, currency="EUR"),
    }
    tokens = [
        TokenUsage(1, 1, True, True, 10, 1_000_000, 500_000),
        TokenUsage(1, 1, True, False, 3, 9_000_000, 0),
        TokenUsage(2, 1, True, False, 4, 1_000_000, 0),
        TokenUsage(3, 1, False, False, 2, 0, 0),
        TokenUsage(4, 1, True, True, 7, 1_000_000, 1_000_000),
    ]
    assert add_up_costs(tokens, prices) == [Cost(3.0, "EUR", 4, 12), Cost(7.0, "USD", 10, 12)]
    without_tokens = TokenUsage(2, 1, False, False, 500, 0, 0)
    assert add_up_costs([tokens[0], without_tokens], prices) == [Cost(7.0, "USD", 10, 500)]
    assert add_up_costs(tokens[3:], prices) == [], "nothing is known, which is not 0"
    free = Prices(input_per_million=0, output_per_million=0)
    assert add_up_costs([TokenUsage(1, 1, False, False, 5, 0, 0)], {1: free}) == [Cost(0.0, "USD", 5, 0)]


@pytest.mark.parametrize(
    "prices", [Prices(), Prices(input_per_million=1.0), Prices(output_per_million=0), Prices(currency="EUR")]
)
def test_a_price_that_was_not_given_is_unknown_and_not_zero(prices: Prices) -> None:
    assert add_up_costs([TokenUsage(1, 1, True, True, 3, 1_000_000, 1_000_000)], {1: prices}) == []


def kinds(batch: Sample, messages: list[str]) -> list[FailureGroup]:
    batch.knowledge(
        "UPDATE llm_responses SET status = 'F', error_message = (CAST(:messages AS text[]))"
        "[(SELECT count(*) FROM llm_responses o WHERE o.id <= llm_responses.id)]",
        messages=messages,
    )
    return list(gather(batch.databases, batch.id).failures)


def test_messages_that_differ_in_numbers_ids_and_names_are_one_kind(batch_of: BatchOf) -> None:
    batch = batch_of(documents=10, connections=1, prompts=1)
    batch.stage()
    first, second, third, fourth, _ = kinds(
        batch,
        [
            "HTTP 429: request req_01ab failed after 1.5 s",
            "HTTP 429: request 550e8400-e29b-41d4-a716-446655440000 failed after 20 minutes",
            "HTTP 429: request req_01ab failed after 1.5 s",
            "HTTP 503: request 7 failed after 2 s",
            "HTTP 503: request 8 failed after 200 ms",
            "cannot read 'lease (copy).txt', it's broken at byte 0x9d",
            "cannot read `b.txt`, it's broken at byte 12",
            "{'error': {'type': 'quota'}}",
            "{'error': {'type': 'auth'}}",
            "{'error': {'type': 'auth'}}",
        ],
    )
    assert (first.cells, first.variants, first.documents) == (3, 2, 3)
    assert first.message == "HTTP 429: request req_01ab failed after 1.5 s"
    assert (second.cells, second.variants) == (2, 2)
    assert second.message == "HTTP 503: request 7 failed after 2 s"
    assert (third.message, third.variants) == ("cannot read 'lease (copy).txt', it's broken at byte 0x9d", 2)
    assert (fourth.message, fourth.cells, fourth.variants) == ("{'error': {'type': 'auth'}}", 2, 1)
    assert gather(batch.databases, batch.id).failure_messages == 5


def test_many_long_responses_are_cut_so_that_the_page_stays_small(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(documents=5, connections=1, prompts=1)
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses "
        "SET response_text = repeat('é', CASE WHEN document_id % 2 = 0 THEN 3 ELSE 9000 END)"
    )
    answer(batch, "10")
    whole = {cell.details.response for cell in gather(batch.databases, batch.id).cells if cell.details}
    assert whole == {"é" * 3, "é" * 2_000}
    monkeypatch.setattr(report_input, "DETAILS_BYTES", 500)
    details = [cell.details for cell in gather(batch.databases, batch.id).cells]
    shown = [found.response for found in details if found and found.response]
    assert 400 < sum(len(text.encode()) for text in shown) <= 500
    assert min(map(len, shown)) == 3, "short ones are not cut"
    assert max(found.response_characters for found in details if found) == 9_000


def test_the_same_input_gives_the_same_file(databases: Databases, folder: Path) -> None:
    completed_over(databases, folder, "before", "document_id % 7")
    batch = completed_over(databases, folder, "after", "document_id % 5 * connection_id % 100")
    runs = Provenance((("queue_rows", "one"),))
    first = write_report(databases, batch.id, runs).path.read_bytes()
    assert write_report(databases, batch.id, runs).path.read_bytes() == first
    assert gather(databases, batch.id, runs).insights.provenance == runs
