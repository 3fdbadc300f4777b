"""An archive holds everything, is proved before anything is removed, and takes only what is its own."""

import hashlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.batches.monitoring.status import batch_progress
from doceval_pipeline.batches.results.reporting import write_report
from doceval_pipeline.batches.staging.reprocessing import pause
from doceval_pipeline.batches.staging.steps import queue_evaluations
from doceval_pipeline.errors import ArchiveError, BatchStateError, DatabaseError, UnknownBatch
from doceval_pipeline.knowledge.archive import dump as knowledge_rows
from doceval_pipeline.migrations.upgrade import HEADS, Schema
from doceval_pipeline_tests.batches.archiving.archives import (
    GONE,
    BatchOf,
    archive,
    archive_batch,
    audit,
    done,
    empty_installation,
    holdings,
    is_marked_archived,
    quiet,
    restore_batch,
)
from doceval_pipeline_tests.conftest import Sample, write_old


def test_an_archived_batch_has_no_rows_left_and_is_still_there(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=3))
    archived = archive_batch(batch)
    left = holdings(batch)
    assert {table: left[table] for table in GONE} == {table: [] for table in GONE}
    assert (archived.rows, archived.documents, archived.documents_removed) == (12, 3, 3)
    progress = batch_progress(batch.databases, str(batch.id))
    assert progress.batch.state == "COMPLETED, archived"
    told = progress.as_json()
    assert (told["status"], told["archived"]) == ("COMPLETED", progress.batch.archived_at.isoformat())  # type: ignore[union-attr] # it is archived
    assert batch.doc_eval("SELECT archive_file, archive_sha256 FROM batches") == [
        (archived.path.name, hashlib.sha256(archived.path.read_bytes()).hexdigest())
    ]
    assert audit(batch) == []


@pytest.mark.parametrize("column", ["response_text", "response_json", "error_message"])
def test_a_text_that_no_archive_takes_is_named_before_anything_is_written(
    batch_of: BatchOf, column: str
) -> None:
    batch = done(batch_of(documents=1))
    before = list(batch.databases.settings.archives.rglob("*"))
    ((number,),) = batch.knowledge("SELECT max(id) FROM llm_responses")
    # In a database that had larger texts before there was a bound, the rule is not there.
    ((rule,),) = batch.knowledge(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'llm_responses_sizes'"
    )
    batch.knowledge("ALTER TABLE llm_responses DROP CONSTRAINT llm_responses_sizes")
    try:
        batch.plant(f"UPDATE llm_responses SET {column} = repeat('x', 16777217) WHERE id = {number}")
        named = (
            f"{column} of llm_responses.id {number} has 16,777,217 bytes, and an archive allows 16,777,216"
        )
        with pytest.raises(ArchiveError, match=named):
            archive_batch(batch)
        assert list(batch.databases.settings.archives.rglob("*")) == before
        assert not is_marked_archived(batch)
    finally:
        batch.plant(f"UPDATE llm_responses SET {column} = NULL WHERE id = {number}")
        batch.knowledge(f"ALTER TABLE llm_responses ADD CONSTRAINT llm_responses_sizes {rule}")


def test_long_texts_are_the_same_in_small_and_in_large_members(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.doc_eval("UPDATE prompts SET prompt_text = repeat('x', 15000)")
    done(batch)
    restore_batch(batch, archive_batch(batch))
    assert audit(batch) == []


def test_numbers_as_wide_as_their_columns_are_archived_and_come_back(batch_of: BatchOf) -> None:
    batch = batch_of(documents=2)
    batch.knowledge("ALTER SEQUENCE llm_responses_id_seq RESTART 9223372036854775799")
    batch.knowledge("ALTER SEQUENCE docs_id_seq RESTART 9223372036854775799")
    batch.doc_eval("ALTER SEQUENCE documents_id_seq RESTART 9223372036854775799")
    try:
        done(batch)
        before = holdings(batch)
        restore_batch(batch, archive_batch(batch))
        assert holdings(batch) == before
        assert audit(batch) == []
    finally:
        empty_installation(batch)


def test_the_file_is_what_the_documentation_says_to_a_reader_of_the_standard_library(
    batch_of: BatchOf,
) -> None:
    batch = batch_of(documents=3)
    write_old(batch.folder / "twin.txt", (batch.folder / "000.txt").read_text())
    (batch.folder / "empty.txt").touch()
    done(batch)
    contents = {path.read_bytes() for path in batch.folder.iterdir()} - {b""}
    rows = [row[0] for row in batch.knowledge("SELECT to_jsonb(r) FROM llm_responses r ORDER BY id")]
    sealed = batch.doc_eval("SELECT config_snapshot::text FROM batches")[0][0]
    path = archive_batch(batch).path

    with ZipFile(path) as file:
        assert file.testzip() is None
        manifest = json.loads(file.read("manifest.json"))
        for name, listed in manifest["members"].items():
            content = file.read(name)
            assert hashlib.sha256(content).hexdigest() == listed["sha256"]
            assert len(content) == listed["bytes"]
            if "rows" in listed:
                assert [json.loads(line) for line in content.splitlines()].__len__() == listed["rows"]
        documents = {name for name in file.namelist() if name.startswith("documents/")}
        assert {file.read(name) for name in documents} == contents
        assert all(
            hashlib.sha256(file.read(n)).hexdigest() == n.removeprefix("documents/") for n in documents
        )
        assert set(file.namelist()) == {"manifest.json", *manifest["members"], *documents}
        assert json.loads(b"[" + b",".join(file.read("attempts.jsonl").splitlines()) + b"]") == rows
        assert file.read("config.json").decode() == sealed
        assert b"Complete" in file.read("report.html")
        files = [json.loads(line) for line in file.read("files.jsonl").splitlines()]
        selected = json.loads(file.read("batch.json"))
    assert [f["document"]["filename"] for f in files] == [
        "000.txt",
        "001.txt",
        "002.txt",
        "empty.txt",
        "twin.txt",
    ]
    assert [f["in_batch"]["state"] for f in files] == ["STAGED"] * 3 + ["SKIPPED", "STAGED"]
    assert [c["name"] for c in selected["connections"]] == ["model-0", "model-1"]
    assert (selected["batch"]["batch_name"], selected["published"]["batch_id"]) == ("sample", batch.id)
    assert (manifest["format"], manifest["version"], manifest["batch"]) == ("doceval-archive", 1, batch.id)
    assert manifest["schemas"] == {"doc_eval": HEADS[Schema.DOC_EVAL], "knowledge": HEADS[Schema.KNOWLEDGE]}
    assert manifest["documents"] == {"count": 3, "bytes": sum(len(content) for content in contents)}


def test_only_its_owner_may_read_an_archive(batch_of: BatchOf) -> None:
    path = archive_batch(done(batch_of(documents=1))).path
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_what_other_batches_use_stays(batch_of: BatchOf) -> None:
    shared, other = batch_of(documents=4, name="one"), batch_of(documents=2, name="two")
    for number in range(2):
        write_old(other.folder / f"shared {number}", (shared.folder / f"00{number}.txt").read_text())
    done(shared)
    done(other)
    before = holdings(other)
    archived = archive_batch(shared)
    assert (archived.documents, archived.documents_removed) == (4, 2)
    left = holdings(other)
    assert left["docs"] == [row for row in before["docs"] if row in left["docs"]]
    assert len(left["docs"]) == 4
    mine = other.knowledge("SELECT t::text FROM llm_responses t WHERE batch_id = :id ORDER BY id")
    assert left["llm_responses"] == [row[0] for row in mine]
    assert len(left["batch_documents"]) == len(left["documents"]) == 4
    assert audit(other) == []
    archive_batch(other)
    assert holdings(other)["docs"] == []


def test_a_content_that_another_batch_has_stored_and_not_queued_yet_stays(batch_of: BatchOf) -> None:
    first, second = batch_of(documents=1, name="one"), batch_of(documents=0, name="two")
    write_old(second.folder / "twin", (first.folder / "000.txt").read_text())
    done(first)
    second.stage()
    second.knowledge("DELETE FROM llm_responses WHERE batch_id = :id")
    assert archive_batch(first).documents_removed == 0
    queue_evaluations(second.databases, second.id)


def test_two_batches_over_the_same_folder_keep_their_files_until_the_last_is_archived(
    batch_of: BatchOf,
) -> None:
    first, second = batch_of(documents=2, name="one"), batch_of(documents=0, name="two")
    first_folder = first.doc_eval("SELECT folder_id FROM batch_folders WHERE batch_id = :id")[0][0]
    second.doc_eval("UPDATE batch_folders SET folder_id = :folder WHERE batch_id = :id", folder=first_folder)
    done(first)
    done(second)
    before = holdings(first)
    archived = archive_batch(first)
    assert holdings(first)["documents"] == before["documents"]
    last = archive_batch(second)
    assert holdings(first)["documents"] == []
    restore_batch(first, archived)
    restore_batch(second, last)
    assert holdings(first) == before


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (lambda batch: None, "has nothing to archive because it is SAVED: stage it first"),
        (
            lambda batch: batch.stage(),
            "is STAGED and cannot be archived: possible now: pause, cancel",
        ),
        (
            lambda batch: (batch.stage(), pause(batch.databases, batch.id)),
            "is PAUSED and cannot be archived: possible now: pause, resume, cancel",
        ),
        (
            lambda batch: (batch.stage(), batch.knowledge("UPDATE llm_responses SET status = 'P'")),
            "is ANALYZING and cannot be archived: possible now: pause, cancel",
        ),
        (
            lambda batch: (batch.stage(), batch.doc_eval("UPDATE batches SET status = 'FAILED_STAGING'")),
            "is FAILED_STAGING with 4 rows in the queue: run doceval stage",
        ),
        (
            lambda batch: (batch.stage(), batch.doc_eval("UPDATE batches SET status = 'STAGING'")),
            "is STAGING and cannot be archived: wait until its staging has ended",
        ),
    ],
)
def test_what_is_not_done_is_refused_with_what_is_possible(
    batch_of: BatchOf, made: Callable[[Sample], object], line: str
) -> None:
    batch = batch_of(documents=1)
    made(batch)
    before = holdings(batch)
    with pytest.raises(BatchStateError) as caught:
        archive_batch(batch)
    assert line in str(caught.value)
    assert {t: holdings(batch)[t] for t in GONE} == {t: before[t] for t in GONE}
    assert not is_marked_archived(batch)


def test_a_number_without_a_batch_is_refused(batch_of: BatchOf) -> None:
    with pytest.raises(UnknownBatch, match="doc_eval has no batch 4711"):
        archive(batch_of(documents=0).databases, 4711, quiet, quiet)


def test_a_staging_that_failed_after_it_stored_documents_can_be_put_away_and_repaired_later(
    batch_of: BatchOf,
) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    batch.knowledge("DELETE FROM llm_responses")
    batch.doc_eval(
        "UPDATE batches SET status = 'FAILED_STAGING', failure_reason = 'why', expected_cells = NULL"
    )
    before = holdings(batch)
    archived = archive_batch(batch)
    assert (archived.rows, archived.documents_removed) == (0, 2)
    assert holdings(batch)["docs"] == []
    with pytest.raises(BatchStateError, match="is archived"):
        batch.stage()
    restore_batch(batch, archived)
    for table in GONE:
        assert holdings(batch)[table] == before[table]
    batch.stage()
    assert batch.status() == "STAGED"


def test_a_batch_whose_last_result_no_tick_has_seen_is_completed_first(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET status = 'S'")
    archived = archive_batch(batch)
    assert batch.status() == "COMPLETED"
    assert archived.rows == 4


@pytest.mark.parametrize("seen", [True, False])
def test_the_newest_report_is_in_it(batch_of: BatchOf, seen: bool) -> None:
    batch = done(batch_of(documents=1))
    write_report(batch.databases, batch.id)
    batch.plant("UPDATE llm_responses SET status = 'F', error_message = 'unique words'")
    if seen:
        poll(batch.databases)
    with ZipFile(archive_batch(batch).path) as file:
        assert b"unique words" in file.read("report.html")
    assert batch.status() == "FAILED"


@pytest.mark.parametrize(
    "lose",
    [
        lambda rows: list(rows)[1:],
        lambda rows: [row.replace("50.5", "50.500001") for row in rows],
        lambda rows: [*rows][::2] * 2,
    ],
)
def test_an_archive_that_does_not_give_the_same_rows_again_is_not_trusted(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Iterator[str]], list[str]]
) -> None:
    batch = done(batch_of(documents=1))
    folder = batch.databases.settings.archives
    before, files = holdings(batch), sorted(folder.glob("*"))
    rows = knowledge_rows.attempt_rows
    monkeypatch.setattr(knowledge_rows, "attempt_rows", lambda *arguments: iter(lose(rows(*arguments))))
    with pytest.raises(ArchiveError, match=r"does not read back as written.*; nothing was removed"):
        archive_batch(batch)
    assert holdings(batch) == before
    assert sorted(folder.glob("*")) == files


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ("UPDATE docs SET content = 'A' || substr(content, 2)", "does not match its sha256"),
        ("UPDATE docs SET content = '!' || substr(content, 2)", "is not base64"),
        (
            "DELETE FROM llm_responses; DELETE FROM docs WHERE id = (SELECT min(id) FROM docs)",
            "1 of its documents are no longer stored: run doceval stage",
        ),
    ],
)
def test_what_is_damaged_in_the_database_is_not_archived(batch_of: BatchOf, damage: str, line: str) -> None:
    batch = done(batch_of(documents=2))
    batch.doc_eval("UPDATE batches SET status = 'FAILED_STAGING' WHERE :gone", gone="DELETE" in damage)
    batch.knowledge(damage)
    before = holdings(batch)
    with pytest.raises(ArchiveError, match=line):
        archive_batch(batch)
    for table in GONE:
        assert holdings(batch)[table] == before[table]
    assert not list(batch.databases.settings.archives.glob(f".{batch.key}*"))


def test_rows_of_another_installation_under_the_same_number_are_not_archived(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=1))
    batch.knowledge("UPDATE batch_configs SET sha256 = repeat('0', 64)")
    with pytest.raises(DatabaseError, match="another doc_eval database uses it"):
        archive_batch(batch)


def test_a_folder_that_cannot_be_made_is_named_and_nothing_is_removed(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    batch = done(batch_of(documents=1))
    (tmp_path / "file").touch()
    monkeypatch.setattr(
        "doceval_pipeline.settings.Settings.archives", property(lambda _: tmp_path / "file" / "archives")
    )
    before = holdings(batch)
    with pytest.raises(
        ArchiveError, match=r"cannot be written to .*\(Not a directory\); nothing was removed"
    ):
        archive_batch(batch)
    assert holdings(batch) | {"batches": []} == before | {"batches": []}


FULL = """
import resource, signal, sys
from doceval_pipeline.batches.archiving.archive import archive
from doceval_pipeline.batches.databases import open_databases
from doceval_pipeline.errors import DocEvalError
from doceval_pipeline.settings import Settings
databases = open_databases(Settings.from_environment())
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    archive(databases, int(sys.argv[1]), lambda *_: None, lambda *_: None)
except DocEvalError as error:
    print(error)
    sys.exit(1)
"""


def test_a_full_disk_is_reported_in_one_line_and_nothing_is_removed(batch_of: BatchOf) -> None:
    batch = batch_of(documents=0)
    (batch.folder / "random").write_bytes(os.urandom(300_000))
    done(batch)
    before = holdings(batch)
    write_report(batch.databases, batch.id)
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(batch.id), "200000"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "(File too large); nothing was removed: free space" in ended.stdout
    assert ended.stderr == ""
    assert holdings(batch) | {"batches": []} == before | {"batches": []}
    assert not list(batch.databases.settings.archives.glob(".*"))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    archive_batch(batch)


def test_the_same_content_gives_the_same_name_and_another_one_another(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=1))
    first = archive_batch(batch)
    restore_batch(batch, first)
    second = archive_batch(batch)
    assert second.path == first.path
    restore_batch(batch, second)
    batch.plant("UPDATE llm_responses SET task_id = 'other' WHERE id = (SELECT min(id) FROM llm_responses)")
    third = archive_batch(batch)
    assert third.path != first.path
    assert first.path.exists()
