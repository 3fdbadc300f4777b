"""A restored batch is the one that was archived: every row, id, time and byte of it."""

import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.reprocessing import Mode, reprocess
from doceval_pipeline.errors import BatchStateError
from doceval_pipeline.knowledge.archive import dump as knowledge_rows
from doceval_pipeline_tests.archives.small import change, sha256
from doceval_pipeline_tests.batches.archiving.archives import (
    WAITS_FOR_A_LOCK,
    BatchOf,
    archive_batch,
    audit,
    done,
    holdings,
    is_marked_archived,
    quiet,
    restore_batch,
    restore_file,
)
from doceval_pipeline_tests.cli.running import until
from doceval_pipeline_tests.conftest import Sample, write_old

# All that PostgreSQL can hold as text.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
TIMES = st.datetimes(timezones=st.just(UTC)) | st.sampled_from([datetime(1, 1, 1, tzinfo=UTC)])
NASTY = ['"', "\\", "\n\r\t", "\u2028\x7f\x01", "\\u0000", "{", "\\.", ""]
ROW = st.fixed_dictionaries(
    {
        "response_text": st.none() | TEXT | st.sampled_from(NASTY),
        "response_json": st.none() | TEXT,
        "error_message": st.none() | TEXT,
        "task_id": st.none() | TEXT,
        "overall_score": st.none() | st.floats(0, 100) | st.sampled_from([-0.0, 5e-324, 0.1 + 0.2]),
        "tokens_per_second": st.none() | st.floats(),
        "time_taken_seconds": st.none() | st.floats(0, 1e9),
        "input_tokens": st.none() | st.integers(-(2**31), 2**31 - 1),
        "started_processing_at": st.none() | TIMES,
        "timestamp": st.none() | st.datetimes(timezones=st.just(UTC)),
    }
)
SET_ROW = """
    UPDATE llm_responses SET response_text = :response_text, response_json = :response_json,
        error_message = :error_message, task_id = :task_id, overall_score = :overall_score,
        tokens_per_second = :tokens_per_second, time_taken_seconds = :time_taken_seconds,
        input_tokens = :input_tokens, started_processing_at = :started_processing_at,
        "timestamp" = :timestamp, status = :word
    WHERE id = :row
"""
# A word that nobody knows, and JSON that holds more than a Python float does, in rows that are superseded.
ODD_ROWS = r"""
    UPDATE llm_responses
    SET status = 'HALF', created_at = '-infinity', connection_details =
        '{"temperature": 1.10, "huge": 1e400, "text": "ä \" \\\\ \n", "list": [null, true, {}]}'
    WHERE batch_id = :id AND attempt = 1 AND withdrawn_at IS NULL
"""


@pytest.fixture
def hostile(batch_of: BatchOf) -> Sample:
    """Files of every kind, and rows that were superseded, set aside, or hold unknown words."""
    batch = batch_of(documents=2)
    for size in (1, 2, 3):
        (batch.folder / f"{size}.bin").write_bytes(bytes(range(size)))
    for name in ("quote'\"\\.txt", "line\nbreak", "ä 🗎", "\u202egnp.exe"):
        write_old(batch.folder / name, name)
    write_old(batch.folder / "twin", "ä 🗎")
    (batch.folder / "empty").touch()
    Path(os.fsdecode(os.fsencode(batch.folder) + b"/not \xff UTF-8")).touch()
    done(batch)
    (batch.folder / "000.txt").unlink()
    reprocess(batch.databases, batch.id, Mode.all, quiet, rescan=True)
    batch.knowledge("UPDATE llm_responses SET status = 'TIMEOUT' WHERE attempt = 2")
    batch.knowledge("UPDATE llm_responses SET status = 'S' WHERE attempt = 2 AND prompt_id % 2 = 0")
    batch.knowledge(ODD_ROWS)
    batch.doc_eval(
        "INSERT INTO batch_progress SELECT :id, now() - n * interval '1 s', n, 0, 0, 1, 2, 3 "
        "FROM generate_series(1, 3) n"
    )
    batch.doc_eval(
        "INSERT INTO connection_history SELECT :id, id, 'seconds', 3, 0.1, 1e-300, 1e300, 0.1::float8 + 0.2, "
        "-0.0, 1 FROM connections"
    )
    poll(batch.databases)
    write_report(batch.databases, batch.id)
    return batch


def test_a_hostile_batch_comes_back_the_same(hostile: Sample) -> None:
    before = holdings(hostile)
    assert {row.split(",")[0].strip("(") for row in before["batch_progress"]} == {str(hostile.id)}
    assert hostile.knowledge("SELECT count(*) FROM llm_responses WHERE withdrawn_at IS NOT NULL") == [(4,)]
    archived = archive_batch(hostile)
    restored = restore_batch(hostile, archived)
    assert holdings(hostile) == before
    assert (restored.rows, restored.documents_stored) == (archived.rows, archived.documents)
    assert restored.files == len(before["batch_documents"])
    assert archived.path.exists()
    assert audit(hostile) == []
    found = poll(hostile.databases)
    assert (found.open, found.completed, found.reports) == ([], [], {})


@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(ROW, st.sampled_from(["S", "F", "TIMEOUT"])), min_size=1, max_size=4))
def test_whatever_a_processor_writes_comes_back_the_same(
    databases: Databases, one_batch: Sample, rows: list[tuple[dict[str, Any], str]]
) -> None:
    numbers = [row[0] for row in one_batch.knowledge("SELECT id FROM llm_responses ORDER BY id")]
    for number, (values, word) in zip(numbers, rows, strict=False):
        one_batch.knowledge(SET_ROW, row=number, word=word, **values)
    poll(databases)
    write_report(databases, one_batch.id)
    before = holdings(one_batch)
    archived = archive_batch(one_batch)
    restore_batch(one_batch, archived)
    assert holdings(one_batch) == before


@pytest.fixture
def one_batch(batch_of: BatchOf) -> Sample:
    return done(batch_of(documents=1))


def test_a_large_document_and_the_sizes_around_a_piece_come_back_the_same(batch_of: BatchOf) -> None:
    batch = batch_of(documents=0)
    sizes = [knowledge_rows.SMALL_DOCUMENT + more for more in (-1, 0, 1)]
    sizes += [3 * 1024 * 1024 + more for more in (-1, 0, 1)] + [30 * 1024 * 1024]
    for size in sizes:
        (batch.folder / f"{size}.bin").write_bytes(os.urandom(size))
    done(batch)
    digest = "SELECT md5(string_agg(d::text, '' ORDER BY id)) FROM docs d"
    before = batch.knowledge(digest)
    restore_batch(batch, archive_batch(batch))
    assert batch.knowledge(digest) == before
    assert audit(batch) == []


def test_a_restored_batch_goes_on_living(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=2))
    restore_batch(batch, archive_batch(batch))
    assert reprocess(batch.databases, batch.id, Mode.all, quiet).new_attempts == 8
    assert batch.status() == "STAGED"
    write_old(batch.folder / "new.txt", "new")
    assert reprocess(batch.databases, batch.id, Mode.missing, quiet, rescan=True).files_new == 1
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    poll(batch.databases)
    archive_batch(batch)
    assert audit(batch) == []


def test_restoring_what_is_here_is_refused(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=1))
    archived = archive_batch(batch)
    restore_batch(batch, archived)
    before = holdings(batch)
    with pytest.raises(BatchStateError, match="is not archived: its rows are in the databases"):
        restore_batch(batch, archived)
    assert holdings(batch) == before


def test_a_bare_name_is_found_in_the_folder_of_archives(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=1))
    archived = archive_batch(batch)
    assert restore_file(batch.databases, Path(archived.path.name)).path == archived.path


def test_contents_that_were_stored_again_meanwhile_are_used_and_no_new_report_is_asked_for(
    batch_of: BatchOf,
) -> None:
    first, second = batch_of(documents=3, name="one"), batch_of(documents=0, name="two")
    for name in ("000.txt", "002.txt"):
        write_old(second.folder / name, (first.folder / name).read_text())
    done(first)
    scores = (
        "SELECT d.sha256, r.prompt_id, r.overall_score FROM llm_responses r "
        "JOIN docs d ON d.id = r.document_id"
    )
    before = first.knowledge(f"{scores} WHERE batch_id = :id ORDER BY 1, 2")
    archived = archive_batch(first)
    done(second)
    restored = restore_batch(first, archived)
    assert (restored.documents, restored.documents_stored) == (3, 1)
    assert first.knowledge("SELECT count(*) FROM docs") == [(3,)]
    assert first.knowledge(f"{scores} WHERE batch_id = :id ORDER BY 1, 2") == before
    found = poll(first.databases)
    assert (found.completed, found.reports) == ([], {})
    name = first.doc_eval("SELECT report_file FROM batches WHERE id = :id")[0][0]
    assert (first.databases.settings.reports / name).exists()
    assert audit(first) == []
    archive_batch(first)


def test_a_content_that_another_process_stores_while_it_is_restored_is_used(batch_of: BatchOf) -> None:
    first, second = batch_of(documents=2, name="one"), batch_of(documents=0, name="two")
    write_old(second.folder / "twin", (first.folder / "001.txt").read_text())
    done(first)
    archived = archive_batch(first)
    staged: list[int] = []

    def stage_second(*_: int) -> None:
        if not staged:
            staged.append(1)
            second.stage()

    assert restore_file(first.databases, archived.path, stage_second).documents_stored == 1
    assert audit(first) == []


def test_a_content_that_is_used_again_is_not_removed_with_another_batch(batch_of: BatchOf) -> None:
    first, second = batch_of(documents=2, name="one"), batch_of(documents=0, name="two")
    write_old(second.folder / "twin", (first.folder / "001.txt").read_text())
    done(first)
    archived = archive_batch(first)
    done(second)
    removing: list[threading.Thread] = []

    def archive_second(*_: int) -> None:
        if not removing:
            removing.append(threading.Thread(target=lambda: archive_batch(second)))
            removing[0].start()
            until(lambda: second.knowledge(WAITS_FOR_A_LOCK))

    restore_file(first.databases, archived.path, archive_second)
    removing[0].join()
    assert first.knowledge("SELECT count(*) FROM docs") == [(2,)]
    assert is_marked_archived(second)
    assert audit(first) == []


def test_rows_of_an_earlier_schema_get_the_defaults_of_what_they_do_not_have(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=2))
    before = holdings(batch)
    archived = archive_batch(batch)
    change(archived.path, lambda m: m.update({"attempts.jsonl": without(m["attempts.jsonl"], "attempt")}))
    batch.doc_eval("UPDATE batches SET archive_sha256 = :sha256", sha256=sha256(archived.path.read_bytes()))
    restore_batch(batch, archived)
    assert holdings(batch) == before


def without(rows: bytes, column: str) -> bytes:
    """Rows without one of their columns."""
    found = [{key: v for key, v in json.loads(row).items() if key != column} for row in rows.splitlines()]
    return b"".join(json.dumps(row).encode() + b"\n" for row in found)
