"""What a completed batch said stays: its prices, and the report of them under its own name."""

import json
import zipfile
from collections.abc import Callable

import pytest
from sqlalchemy import text

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.report_files import find_report, report_name
from doceval_pipeline.batches.results.report_input import gather
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.reprocessing import Mode, reprocess
from doceval_pipeline.doc_eval.archive import dump as configuration
from doceval_pipeline.doc_eval.batches import batch_by_id
from doceval_pipeline.domain.insights import Provenance
from doceval_pipeline_tests.batches.archiving.archives import (
    archive_batch,
    audit,
    empty_installation,
    restore_batch,
)
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]


def price(batch: Sample, per_million: float | None) -> None:
    """Let all connections have a price for what is read, or none."""
    prices = (
        None
        if per_million is None
        else json.dumps({"input_per_million": per_million, "output_per_million": 0})
    )
    batch.doc_eval("UPDATE connections SET prices = CAST(:prices AS jsonb)", prices=prices)


def answer(batch: Sample, status: str = "S") -> None:
    batch.knowledge(
        "UPDATE llm_responses SET status = :status, overall_score = 50, input_tokens = 1000000 "
        "WHERE batch_id = :id AND status = 'QUEUED'",
        status=status,
    )
    poll(batch.databases)


def cost(batch: Sample) -> float | None:
    """What the report says that the batch cost."""
    found = gather(batch.databases, batch.id).insights.costs
    return found[0].amount if found else None


@pytest.fixture
def batch(batch_of: BatchOf) -> Sample:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    price(batch, 2)
    return batch


def test_an_open_batch_has_the_present_prices_and_a_completed_one_those_of_its_completion(
    batch: Sample,
) -> None:
    batch.knowledge("UPDATE llm_responses SET status = 'P', input_tokens = 1000000")
    price(batch, 3)
    batch.knowledge("UPDATE llm_responses SET status = 'QUEUED'")
    answer(batch)
    assert batch.status() == "COMPLETED"
    for later in (7, None):
        price(batch, later)
        assert cost(batch) == 3


@pytest.mark.parametrize("status", ["S", "F"])
def test_a_batch_that_ended_without_prices_gets_none_later(batch: Sample, status: str) -> None:
    price(batch, None)
    answer(batch, status)
    price(batch, 7)
    assert cost(batch) is None


def test_a_late_result_leaves_the_prices_and_new_attempts_take_those_of_their_completion(
    batch: Sample,
) -> None:
    answer(batch, "F")
    price(batch, 7)
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    poll(batch.databases)
    assert batch.status() == "COMPLETED"
    assert cost(batch) == 2
    reprocess(batch.databases, batch.id, Mode.all, lambda *_: None)
    poll(batch.databases)
    assert batch.doc_eval("SELECT prices_at_completion FROM batches") == [(None,)]
    answer(batch)
    price(batch, 9)
    assert cost(batch) == 7


def test_what_was_put_into_the_prices_by_hand_counts_as_no_price(batch: Sample) -> None:
    answer(batch)
    for wrong in ('{"x": 1}', '{"99999999999": {}}', '{"1": {"input_per_million": -1}, "2": 3}'):
        batch.doc_eval("UPDATE batches SET prices_at_completion = CAST(:wrong AS jsonb)", wrong=wrong)
        assert cost(batch) is None


def test_a_report_that_says_something_else_has_another_name_and_the_same_has_the_same(batch: Sample) -> None:
    answer(batch)
    first = write_report(batch.databases, batch.id)
    content = first.path.read_bytes()
    assert first.path.name == report_name(batch.id, content)
    assert first.path.name.startswith(f"{batch.key}-")
    price(batch, 7)
    again = write_report(batch.databases, batch.id)
    assert (again.path, again.path.read_bytes()) == (first.path, content)
    other = write_report(batch.databases, batch.id, Provenance((("queue_rows", "some run"),)))
    assert other.digest == first.digest
    assert other.path != first.path
    assert first.path.read_bytes() == content
    with batch.databases.doc_eval.connect() as connection:
        assert find_report(batch.databases, batch_by_id(connection, batch.id)) == other.path
    assert poll(batch.databases).reports == {}
    assert audit(batch) == []


def test_an_archive_takes_prices_and_the_report_along(batch: Sample) -> None:
    answer(batch)
    path = write_report(batch.databases, batch.id).path
    content = path.read_bytes()
    archived = archive_batch(batch)
    price(batch, 7)
    path.unlink()
    restore_batch(batch, archived)
    assert cost(batch) == 2
    assert path.read_bytes() == content
    archive_batch(batch)
    path.unlink()
    empty_installation(batch)
    restore_batch(batch, archived)
    assert batch.doc_eval("SELECT report_file FROM batches") == [(path.name,)]
    assert path.read_bytes() == content
    price(batch, 7)
    assert cost(batch) == 2


def test_an_archive_from_before_gives_the_prices_of_its_connections(
    batch: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(batch)
    as_before = (
        "SELECT (SELECT json_object_agg(key, value) FROM json_each(row_to_json(b)) "
        "WHERE key NOT IN ('prices_at_completion', 'report_file'))::text FROM batches b"
    )
    monkeypatch.setattr(configuration, "_BATCH", text(f"{as_before} WHERE id = :batch_id"))
    archived = archive_batch(batch)
    with zipfile.ZipFile(archived.path) as file:
        assert "prices_at_completion" not in json.loads(file.read("batch.json"))["batch"]
    empty_installation(batch)
    restore_batch(batch, archived)
    price(batch, 7)
    assert cost(batch) == 2
