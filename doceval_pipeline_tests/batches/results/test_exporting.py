"""Exports of real batches: every evaluation once and exactly, of one moment, complete or not at all."""

import os
import re
import resource
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook
from sqlalchemy import Engine, event, text

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.results import exporting
from doceval_pipeline.batches.results.exporting import Exported, export_page, export_records
from doceval_pipeline.batches.results.report_input import gather
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.reprocessing import Mode, reprocess
from doceval_pipeline.batches.staging.steps import seal_batch
from doceval_pipeline.domain.export_record import ExportRecord
from doceval_pipeline.errors import BatchStateError, ExportError, FileError
from doceval_pipeline.redaction import NOT_SHOWN
from doceval_pipeline.reports.decision import decisions
from doceval_pipeline.reports.exports.writing import Format
from doceval_pipeline.reports.figures import figures
from doceval_pipeline_tests.batches.archiving.archives import archive_batch, done
from doceval_pipeline_tests.conftest import Sample, write_old
from doceval_pipeline_tests.reports.exports.reading import READERS, read_csv, read_jsonl, read_xlsx
from doceval_pipeline_tests.reports.exports.records import HOSTILE
from doceval_pipeline_tests.secret_canaries import KEY

BatchOf = Callable[..., Sample]
MIB = 1024 * 1024
ALL = pytest.mark.parametrize("format", Format)
ANSWER = text("""
    UPDATE llm_responses SET status = :status, response_text = :text, response_json = :text,
        error_message = :error, overall_score = :score, input_tokens = 7, output_tokens = :tokens,
        time_taken_seconds = :seconds, response_time_ms = 1500, task_id = :task,
        started_processing_at = :started, completed_processing_at = now()
    WHERE id = :row
""")
OUTCOMES = {"S": "succeeded", "COMPLETED": "succeeded", "F": "failed", "P": "running"}
OUTCOMES |= {"QUEUED": "waiting", "READY_TO_RETRY": "waiting", "ODD": "unknown"}


def quiet(*_: int) -> None:
    """Ignore progress."""


def exported(
    batch: Sample,
    path: Path,
    format: Format = Format.JSONL,
    *,
    every_attempt: bool = False,
    progress: exporting.ReportProgress = quiet,
) -> Exported:
    return export_records(batch.databases, batch.id, format, path, progress, every_attempt=every_attempt)


def answer(batch: Sample) -> None:
    """Write a hostile text into each row of a batch, and other values that a processor may write or omit."""
    texts = [*HOSTILE, "x" * 32_767, None]
    rows = [row for (row,) in batch.knowledge("SELECT id FROM llm_responses ORDER BY id")]
    with batch.databases.knowledge.begin() as connection:
        for number, row in enumerate(rows):
            written = texts[number % len(texts)]
            values = {
                "status": ("S", "F", "COMPLETED", "P", "ODD")[number % 5],
                "text": written,
                "error": written if number % 5 == 1 else None,
                "score": (0.0, 100.0, 87.5, None)[number % 4],
                "tokens": (None, 0, 2**31 - 1)[number % 3],
                "seconds": (2.5, None, -1.0)[number % 3],
                "task": (None, "simulated-1", "task")[number % 3],
                "started": (None, datetime(1, 1, 2, tzinfo=UTC), "infinity", "200000-01-01")[number % 4],
                "row": row,
            }
            connection.execute(ANSWER, values)


def expected(batch: Sample, which: str = "true") -> list[ExportRecord]:
    """The records of the rows that match a condition, each read separately."""
    found = batch.knowledge(
        f"SELECT to_jsonb(r) FROM llm_responses r WHERE batch_id = :id AND {which} "
        "ORDER BY document_id, prompt_id, connection_id, attempt"
    )
    return [_expected(batch, row) for (row,) in found]


def _expected(batch: Sample, row: dict[str, Any]) -> ExportRecord:
    ((config, config_sha256),) = batch.doc_eval(
        "SELECT config_snapshot, config_sha256 FROM batches WHERE id = :id"
    )
    (doc,) = batch.knowledge("SELECT * FROM docs WHERE id = :doc", doc=row["document_id"])
    files = batch.doc_eval(
        "SELECT folder_path, filepath FROM batch_documents b JOIN documents d ON d.id = b.document_id "
        "JOIN folders f ON f.id = d.folder_id WHERE batch_id = :id AND knowledge_document_id = :doc "
        "ORDER BY filepath",
        doc=row["document_id"],
    )
    connection = next(c for c in config["connections"] if c["id"] == row["connection_id"])
    milliseconds = row["response_time_ms"]
    return ExportRecord(
        partition_key=batch.key,
        batch_id=batch.id,
        batch_name=batch.name,
        config_sha256=config_sha256,
        document_id=doc.document_id,
        sha256=doc.sha256,
        folder=files[0][0] if files else None,
        file=files[0][1] if files else row["file_name"],
        files=len(files),
        file_size=doc.file_size,
        content_type=doc.content_type,
        doc_type=doc.doc_type,
        connection_id=row["connection_id"],
        connection=connection["name"],
        provider=connection["provider_type"],
        model=connection["model_name"],
        prompt_id=row["prompt_id"],
        prompt=next(prompt["name"] for prompt in config["prompts"] if prompt["id"] == row["prompt_id"]),
        attempt=row["attempt"],
        current=row["superseded_at"] is None and row["withdrawn_at"] is None,
        outcome=OUTCOMES[row["status"]],
        status=row["status"],
        score=row["overall_score"],
        response_text=row["response_text"],
        response_json=row["response_json"],
        error_message=row["error_message"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        seconds=row["time_taken_seconds"]
        if milliseconds is None
        else row["time_taken_seconds"] or milliseconds / 1000,
        simulated=row["task_id"] == "simulated-1",
        worker=row["worker"],
        task_id=row["task_id"],
        deliveries=row["deliveries"],
        queued_at=_time(row["created_at"]),
        started_at=_time(row["started_processing_at"]),
        completed_at=_time(row["completed_processing_at"]),
        withdrawn_at=_time(row["withdrawn_at"]),
        reused_from_batch=row["reused_batch_id"],
        reused_from=row["reused_from"],
        **_judged(batch, row),
    )


def _judged(batch: Sample, row: dict[str, Any]) -> dict[str, Any]:
    """The threshold and the cost of a row, by plain rules."""
    ((threshold,),) = batch.doc_eval(
        "SELECT threshold FROM prompts WHERE id = :prompt", prompt=row["prompt_id"]
    )
    ((prices,),) = batch.doc_eval(
        "SELECT prices FROM connections WHERE id = :connection", connection=row["connection_id"]
    )
    score = row["overall_score"] if OUTCOMES[row["status"]] == "succeeded" else None
    cost = None
    if prices and OUTCOMES[row["status"]] in ("succeeded", "failed") and row["output_tokens"] is not None:
        # Whole numbers of millionths, so that no order of additions matters.
        cost = (2 * row["input_tokens"] + 8 * row["output_tokens"]) / 1e6
    return {
        "threshold": threshold,
        "below_threshold": None if threshold is None or score is None else score < threshold,
        "cost": cost,
        "currency": None if cost is None else "EUR",
    }


def _time(value: str | None) -> datetime | None:
    """A time of JSON; None unless its year has four digits."""
    return datetime.fromisoformat(value) if value and re.match(r"\d{4}-", value) else None


@pytest.fixture
def answered(batch_of: BatchOf) -> Sample:
    """A batch of 40 cells of which some wait, with a file that has the content of another one.

    One of its connections has prices, and its prompts have thresholds.
    """
    batch = batch_of(documents=10)
    write_old(batch.folder / "twin", (batch.folder / "003.txt").read_text())
    batch.stage()
    answer(batch)
    batch.knowledge("UPDATE llm_responses SET status = 'READY_TO_RETRY' WHERE status = 'ODD'")
    batch.doc_eval(
        "UPDATE connections SET prices = CAST(:prices AS jsonb) WHERE id = (SELECT min(id) FROM connections)",
        prices='{"input_per_million": 2, "output_per_million": 8, "currency": "EUR"}',
    )
    batch.doc_eval(
        "UPDATE prompts SET threshold = CASE id WHEN (SELECT min(id) FROM prompts) THEN 90 ELSE 10 END"
    )
    return batch


@ALL
def test_an_export_reads_back_as_what_the_databases_hold(
    answered: Sample, tmp_path: Path, format: Format
) -> None:
    told: list[tuple[int, int]] = []
    path = tmp_path / f"export.{format}"
    done = exported(answered, path, format, progress=lambda *said: told.append(said))
    records = expected(answered)
    assert READERS[format](path) == records
    assert {record.outcome for record in records} == {"succeeded", "failed", "running", "waiting"}
    assert {record.files for record in records} == {1, 2}
    assert {record.below_threshold for record in records} == {True, False, None}
    assert {record.currency for record in records} == {"EUR", None}
    assert (done.records, done.cut, done.size) == (40, 0, path.stat().st_size)
    assert told == [(0, 40), (40, 40)]
    assert path.stat().st_mode & 0o777 == 0o600
    assert {found.name for found in tmp_path.iterdir()} == {path.name, "sample"}


def test_every_attempt_is_there_and_says_whether_it_counts(answered: Sample, tmp_path: Path) -> None:
    answered.knowledge("UPDATE llm_responses SET status = 'F' WHERE status NOT IN ('S', 'COMPLETED')")
    poll(answered.databases)
    (answered.folder / "000.txt").unlink()
    reprocess(answered.databases, answered.id, Mode.failed, quiet, rescan=True)
    every, current = tmp_path / "every.jsonl", tmp_path / "current.jsonl"
    assert exported(answered, every, every_attempt=True).records == len(expected(answered))
    exported(answered, current)
    assert read_jsonl(every) == expected(answered)
    assert read_jsonl(current) == [record for record in read_jsonl(every) if record.current]
    assert read_jsonl(current) == expected(answered, "withdrawn_at IS NULL AND superseded_at IS NULL")
    gone = [record for record in read_jsonl(every) if record.withdrawn_at]
    assert {(record.file, record.folder, record.files) for record in gone} == {("000.txt", None, 0)}
    assert {record.attempt for record in read_jsonl(every)} == {1, 2}


def test_a_large_response_is_complete_and_an_export_is_of_one_moment(
    batch_of: BatchOf, tmp_path: Path
) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses SET status = 'S', response_text = repeat('\u20ac', 70000), response_json = '{}'"
        "WHERE id = (SELECT min(id) FROM llm_responses)"
    )
    before = expected(batch)

    def write_and_remove(done: int, total: int) -> None:
        batch.knowledge("UPDATE llm_responses SET status = 'S', response_text = 'late'")
        batch.plant("DELETE FROM llm_responses WHERE attempt = 1")

    exported(batch, tmp_path / "export.jsonl", progress=write_and_remove)
    assert batch.knowledge("SELECT count(*) FROM llm_responses") == [(0,)]
    assert read_jsonl(tmp_path / "export.jsonl") == before


def test_a_batch_that_is_archived_meanwhile_is_exported_as_it_was(batch_of: BatchOf, tmp_path: Path) -> None:
    batch = done(batch_of(documents=2))
    before = expected(batch)
    exported(batch, tmp_path / "export.csv", Format.CSV, progress=lambda *_: archive_batch(batch) and None)
    assert read_csv(tmp_path / "export.csv") == before


@pytest.mark.parametrize("format", [Format.CSV, "html"])
def test_an_archived_batch_is_rejected_with_the_file_to_restore(
    batch_of: BatchOf, tmp_path: Path, format: str
) -> None:
    batch = done(batch_of(documents=1))
    archived = archive_batch(batch)
    with pytest.raises(BatchStateError, match=f"is archived: run doceval restore {archived.path.name} first"):
        _write(batch, tmp_path / "export", format)
    assert {found.name for found in tmp_path.iterdir()} == {"sample"}


def _write(batch: Sample, path: Path, format: str) -> None:
    if format == "html":
        export_page(batch.databases, batch.id, path)
    else:
        exported(batch, path, Format(format))


def test_a_batch_that_was_never_staged_is_rejected(batch_of: BatchOf, tmp_path: Path) -> None:
    with pytest.raises(BatchStateError, match="has nothing to export because it is SAVED: stage it first"):
        exported(batch_of(documents=1), tmp_path / "export.jsonl")


def test_a_batch_without_rows_yet_has_no_records(batch_of: BatchOf, tmp_path: Path) -> None:
    batch = batch_of(documents=1)
    seal_batch(batch.databases, batch.id)
    assert exported(batch, tmp_path / "export.csv", Format.CSV).records == 0
    assert read_csv(tmp_path / "export.csv") == []


def test_names_that_the_configuration_does_not_have_are_empty(batch_of: BatchOf, tmp_path: Path) -> None:
    batch = batch_of(documents=1, connections=1, prompts=1)
    batch.stage()
    batch.plant("UPDATE llm_responses SET connection_id = 4711, prompt_id = 4712")
    exported(batch, tmp_path / "export.jsonl")
    (record,) = read_jsonl(tmp_path / "export.jsonl")
    assert (record.connection, record.provider, record.model, record.prompt) == (None, None, None, None)


def test_no_export_contains_a_text_like_a_key(batch_of: BatchOf, tmp_path: Path) -> None:
    batch = batch_of(documents=1, connections=1, prompts=1)
    write_old(batch.folder / f"{KEY}.txt", "named carelessly")
    batch.stage()
    batch.knowledge(
        "UPDATE llm_responses "
        "SET status = 'S', response_text = :text, response_json = :text, task_id = :text",
        text=f"the key is {KEY}, I said",
    )
    for format in Format:
        path = tmp_path / f"export.{format}"
        exported(batch, path, format)
        record, other = READERS[format](path)
        assert (
            record.response_text
            == record.response_json
            == record.task_id
            == f"the key is {NOT_SHOWN}, I said"
        )
        assert {record.file, other.file} == {"000.txt", f"{NOT_SHOWN}.txt"}
    assert KEY in batch.knowledge("SELECT max(response_text) FROM llm_responses")[0][0]


def test_the_number_of_statements_does_not_grow_with_the_batch(batch_of: BatchOf, tmp_path: Path) -> None:
    seen: list[str] = []

    def listen(*about: Any) -> None:
        seen.append(about[2])

    counts = []
    for documents in (2, 60):
        batch = batch_of(documents=documents, name=f"of {documents}")
        batch.stage()
        event.listen(Engine, "before_cursor_execute", listen)
        exported(batch, tmp_path / "export.jsonl")
        event.remove(Engine, "before_cursor_execute", listen)
        counts.append(len(seen))
        seen.clear()
    assert counts[0] == counts[1] <= 7


def test_memory_does_not_grow_with_the_texts(batch_of: BatchOf, tmp_path: Path) -> None:
    batch = batch_of(documents=10)
    batch.stage()
    batch.plant("UPDATE llm_responses SET status = 'S', response_text = repeat('0123456789', 40000)")
    tracemalloc.start()
    assert exported(batch, tmp_path / "export.jsonl").size > 40 * 400_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * MIB, "of 16 MB"


@pytest.mark.parametrize("stage", ["progress", "fsync", "replace"])
@pytest.mark.parametrize("format", [Format.CSV, Format.XLSX])
def test_a_killed_export_leaves_the_existing_file(
    answered: Sample, tmp_path: Path, format: Format, stage: str
) -> None:
    path = tmp_path / f"export.{format}"
    path.write_text("an earlier one")
    child = os.fork()
    if not child:
        try:
            for engine in (answered.databases.doc_eval, answered.databases.knowledge):
                engine.dispose(close=False)
            if stage != "progress":
                setattr(os, stage, kill)
            exported(answered, path, format, progress=kill if stage == "progress" else quiet)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert path.read_text() == "an earlier one"
    assert {found.name.partition("-")[0] for found in tmp_path.iterdir()} <= {path.name, "sample", ".doceval"}


def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """A limit on file sizes, which acts like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("format", [*Format, "html"])
def test_without_disk_space_the_existing_file_stays(answered: Sample, tmp_path: Path, format: str) -> None:
    path = tmp_path / f"export.{format}"
    path.write_text("an earlier one")
    with (
        no_file_larger_than(5_000),
        pytest.raises(FileError, match=r"export\.\w+ cannot be written \(File too large\): free disk space"),
    ):
        _write(answered, path, format)
    assert path.read_text() == "an earlier one"
    assert {found.name for found in tmp_path.iterdir()} == {path.name, "sample"}


def test_an_unusable_path_is_reported_in_one_line(answered: Sample, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for place, reason in (
        ("folder", "exists and is not a regular file: choose another path"),
        ("pipe", "exists and is not a regular file: choose another path"),
        ("nowhere/export.csv", r"cannot be written \(No such file or directory\)"),
        ("file/export.csv", r"cannot be written \(Not a directory\)"),
        ("x" * 300, r"cannot be written \(File name too long\)"),
    ):
        with pytest.raises(FileError, match=reason) as told:
            exported(answered, tmp_path / place, Format.CSV)
        assert "\n" not in str(told.value)


def test_a_link_stays_and_the_file_behind_it_is_replaced(answered: Sample, tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "behind.jsonl")
    for _ in range(2):
        exported(answered, tmp_path / "link.jsonl")
        assert (tmp_path / "link.jsonl").is_symlink()
        assert len(read_jsonl(tmp_path / "behind.jsonl")) == 40


def test_the_page_is_that_of_the_report_and_does_not_count_as_one(answered: Sample, tmp_path: Path) -> None:
    size = export_page(answered.databases, answered.id, tmp_path / "export.html")
    assert answered.doc_eval("SELECT reported_digest FROM batches WHERE id = :id") == [(None,)]
    report = write_report(answered.databases, answered.id).path.read_bytes()
    assert (tmp_path / "export.html").read_bytes() == report
    assert size == len(report)


def test_a_result_without_its_document_is_an_error(answered: Sample, tmp_path: Path) -> None:
    answered.plant("DELETE FROM docs WHERE id = (SELECT min(id) FROM docs)")
    with pytest.raises(
        ExportError, match="has 40 results, but only 36 of them have a document: run doceval check"
    ):
        exported(answered, tmp_path / "export.jsonl")
    assert not (tmp_path / "export.jsonl").exists()


def test_a_workbook_begins_with_what_the_report_decides_at_the_same_moment(
    answered: Sample, tmp_path: Path
) -> None:
    answered.knowledge("UPDATE llm_responses SET status = 'S', overall_score = 70 WHERE status <> 'F'")
    shown = figures(gather(answered.databases, answered.id))
    path = tmp_path / "export.xlsx"

    def write_late(*_: int) -> None:
        answered.knowledge("UPDATE llm_responses SET overall_score = 1")

    exported(answered, path, Format.XLSX, progress=write_late)
    workbook = load_workbook(path)
    texts = {row[0].value for row in workbook["summary"].iter_rows()}
    assert {decision.sentence for decision in decisions(shown)} <= texts
    rows = [[cell.value for cell in row] for row in workbook["documents"].iter_rows()]
    assert len(rows) == 1 + 10
    scores = [value for row in rows[1:] for value in row[4:-1]]
    records = read_xlsx(path)
    numbers = [value for value in scores if not isinstance(value, str)]
    assert sorted(numbers) == sorted(
        one.score for one in records if one.outcome == "succeeded" and one.score is not None
    )
    assert scores.count("failed") == [one.outcome for one in records].count("failed") > 0
    assert len(scores) == len(records) == 40
