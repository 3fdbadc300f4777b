"""Restoring into an installation that does not know the batch: it fits whole, or is refused whole."""

import shutil
from pathlib import Path

import pytest

from doceval_pipeline.archives.format import BATCH
from doceval_pipeline.batches.archiving import restore
from doceval_pipeline.batches.archiving.archive import ArchivedBatch
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.completion import poll
from doceval_pipeline.errors import ArchiveError, BatchStateError
from doceval_pipeline_tests.archives.small import Members, change, edit_manifest, sha256
from doceval_pipeline_tests.batches.archiving.archives import (
    BatchOf,
    Holdings,
    archive_batch,
    audit,
    done,
    empty_installation,
    holdings,
    is_marked_archived,
    restore_batch,
    restore_file,
)
from doceval_pipeline_tests.conftest import Sample

CONNECTIONS = """
    SELECT c.id, c.name, p.provider_type, m.model_name, c.api_key_env, c.created_at, c.updated_at
    FROM connections c JOIN llm_providers p ON p.id = provider_id JOIN models m ON m.id = model_id ORDER BY 1
"""
ROWS = """
    SELECT d.sha256, prompt_id, connection_id, attempt, status, overall_score, r.created_at, d.created_at
    FROM llm_responses r JOIN docs d ON d.id = r.document_id WHERE batch_id = :id ORDER BY 1, 2, 3
"""
FILES = """
    SELECT filepath, state, sha256, created_at
    FROM batch_documents b JOIN documents d ON d.id = b.document_id WHERE batch_id = :id ORDER BY 1
"""
# Known by their names alone, so that their own numbers are new.
BY_NAME = ("llm_providers", "models", "connections")


@pytest.fixture(autouse=True)
def _new_installation(databases: Databases) -> None:
    empty_installation(Sample(databases, 0, "", Path()))


def elsewhere(batch: Sample, tmp_path: Path) -> ArchivedBatch:
    """Archive a batch, take the file away, and leave a new installation behind."""
    archived = archive_batch(batch)
    path = tmp_path / "taken away.zip"
    shutil.copy(archived.path, path)
    shutil.rmtree(batch.databases.settings.archives)
    shutil.rmtree(batch.databases.settings.reports)
    empty_installation(batch)
    return ArchivedBatch(path, archived.sha256, archived.size, archived.rows, archived.documents, 0)


def numbered(found: Holdings) -> Holdings:
    return {table: rows for table, rows in found.items() if table not in BY_NAME}


def test_a_new_installation_gets_the_batch_whole(batch_of: BatchOf, tmp_path: Path) -> None:
    batch = done(batch_of(documents=3))
    batch.doc_eval("INSERT INTO batch_progress SELECT :id, now(), 1, 2, 3, 4, 5, 6")
    batch.doc_eval(
        "INSERT INTO connection_history SELECT :id, id, 'seconds', 1, 2, 3, 4, 5, 6, 7 FROM connections"
    )
    before, connections = holdings(batch), batch.doc_eval(CONNECTIONS)
    archived = elsewhere(batch, tmp_path)
    restore_batch(batch, archived)
    assert batch.doc_eval("UPDATE batches SET is_foreign = false WHERE is_foreign RETURNING id") == [
        (batch.id,)
    ]
    assert numbered(holdings(batch)) == numbered(before)
    batch.doc_eval("UPDATE batches SET is_foreign = true")
    assert batch.doc_eval(CONNECTIONS) == connections
    assert audit(batch) == []
    found = poll(batch.databases)
    assert (found.open, found.completed, found.reports) == ([], [], {})
    name = batch.doc_eval("SELECT report_file FROM batches")[0][0]
    assert b"Complete" in (batch.databases.settings.reports / name).read_bytes()
    assert archive_batch(batch).rows == archived.rows


def test_what_is_made_after_a_restore_gets_numbers_of_its_own(batch_of: BatchOf, tmp_path: Path) -> None:
    batch = batch_of(documents=3)
    batch.doc_eval("UPDATE batches SET meta_data = '{\"a\": 1.10}'")
    done(batch)
    restore_batch(batch, elsewhere(batch, tmp_path))
    later = done(batch_of(documents=3, name="later", connections=3, prompts=3))
    assert later.id > batch.id
    assert audit(batch) == []
    assert later.knowledge("SELECT count(*) FROM llm_responses WHERE batch_id = :id") == [(27,)]


def test_a_batch_finds_its_place_among_others(batch_of: BatchOf, tmp_path: Path) -> None:
    """Rows, contents and files get other ids where theirs are taken; the numbers that are sealed stay."""
    done(batch_of(documents=2, name="first"))
    batch = done(batch_of(documents=3, name="second"))
    rows, files = batch.knowledge(ROWS), batch.doc_eval(FILES)
    archived = elsewhere(batch, tmp_path)
    other = done(batch_of(documents=5, name="other"))
    before = other.knowledge(ROWS)
    restored = restore_batch(batch, archived)
    assert (other.id, restored.batch_id, restored.rows, restored.documents_stored) == (1, 2, 12, 3)
    assert (batch.knowledge(ROWS), batch.doc_eval(FILES)) == (rows, files)
    assert other.knowledge(ROWS) == before
    assert audit(batch) == []
    assert poll(batch.databases).reports == {}
    archive_batch(batch)
    assert audit(batch) == []


def test_a_content_that_is_there_under_another_id_is_used(batch_of: BatchOf, tmp_path: Path) -> None:
    batch = done(batch_of(documents=2, name="first"))
    archived = elsewhere(batch, tmp_path)
    batch.knowledge(
        "INSERT INTO docs (id, document_id, sha256, content, content_type, doc_type, file_size) "
        "VALUES (1, 'sha256:' || repeat('0', 64), repeat('0', 64), 'AAAA', 't', 't', 3)"
    )
    restore_batch(batch, archived)
    assert batch.knowledge("SELECT count(*), count(*) FILTER (WHERE sha256 ~ '^0{64}$') FROM docs") == [
        (3, 1)
    ]
    assert audit(batch) == []
    assert poll(batch.databases).reports == {}


RENAMED = "UPDATE batches SET id = 5, batch_number = 5, batch_name = 'b'; "


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("UPDATE batches SET batch_name = 'mine'", "batch number 1 is already used here by 'mine'"),
        (
            "UPDATE batches SET id = 5, batch_number = 5",
            "batch 'sample' has number 5 here and 1 in the archive",
        ),
        (
            RENAMED + "UPDATE prompts SET name = 'p' WHERE id = 2",
            "prompt number 2 is already used here by 'p'",
        ),
        (
            RENAMED + "UPDATE prompts SET id = 9 WHERE id = 2",
            "prompt 'prompt-1' has number 9 here and 2 in the archive",
        ),
        (
            RENAMED + "UPDATE connections SET id = id + 50",
            "connection 'model-0' has number 51 here and 1 in the archive, and 1 more",
        ),
        (
            RENAMED + "UPDATE folders SET folder_path = '/other'",
            "folder number 1 is already used here by '/other'",
        ),
    ],
)
def test_what_is_taken_by_something_else_is_refused_before_anything_is_written(
    batch_of: BatchOf, tmp_path: Path, change: str, line: str
) -> None:
    batch = done(batch_of(documents=1))
    archived = elsewhere(batch, tmp_path)
    shutil.move(batch.folder, tmp_path / "moved")
    other = batch_of(documents=1, name="sample")
    for statement in change.split(";"):
        other.doc_eval(f"SET LOCAL session_replication_role = replica; {statement}")
    before = holdings(other)
    with pytest.raises(ArchiveError) as caught:
        restore_batch(batch, archived)
    told = str(caught.value)
    assert told == (
        f"{archived.path.name} conflicts with this installation: {line}: restore it into a separate "
        "installation, with DOCEVAL_HOME set to another folder"
    )
    assert holdings(other) == before


def test_a_name_that_reads_like_that_of_another_batch_is_taken(batch_of: BatchOf, tmp_path: Path) -> None:
    batch = done(batch_of(documents=1, name="Prüfung"))
    archived = elsewhere(batch, tmp_path)
    shutil.move(batch.folder, tmp_path / "moved")
    other = batch_of(documents=1, name="other")
    other.doc_eval(
        "SET LOCAL session_replication_role = replica; "
        "UPDATE batches SET id = 70, batch_number = 70, batch_name = normalize('Prüfung', NFD); "
        "UPDATE batch_folders SET batch_id = 70; UPDATE batch_connections SET batch_id = 70; "
        "UPDATE batch_prompts SET batch_id = 70; UPDATE folders SET id = 70; "
        "UPDATE batch_folders SET folder_id = 70"
    )
    with pytest.raises(ArchiveError, match="batch 'Prüfung' has number 70 here and 1 in the archive"):
        restore_batch(batch, archived)


def test_connections_and_prompts_that_are_the_same_are_used(batch_of: BatchOf, tmp_path: Path) -> None:
    batch = done(batch_of(documents=1))
    archived = elsewhere(batch, tmp_path)
    batch.doc_eval("INSERT INTO prompts (name, prompt_text) VALUES ('prompt-0', 'edited since')")
    restore_batch(batch, archived)
    assert batch.doc_eval("SELECT id, name, prompt_text FROM prompts ORDER BY id") == [
        (1, "prompt-0", "edited since"),
        (2, "prompt-1", "Question 1?"),
    ]


def test_margin_threshold_and_weight_come_with_the_batch_and_replace_none_that_is_here(
    batch_of: BatchOf, tmp_path: Path
) -> None:
    batch = batch_of(documents=2)
    batch.doc_eval("UPDATE batches SET margin = 2.5 WHERE id = :id")
    batch.doc_eval("UPDATE prompts SET threshold = 60, weight = 0.5 WHERE name = 'prompt-0'")
    archived = elsewhere(done(batch), tmp_path)
    criteria = "SELECT name, threshold, weight FROM prompts ORDER BY name"
    restore_batch(batch, archived)
    assert batch.doc_eval("SELECT margin FROM batches WHERE id = :id") == [(2.5,)]
    assert batch.doc_eval("SELECT config_snapshot -> 'batch' -> 'margin' FROM batches") == [(2.5,)]
    assert batch.doc_eval(criteria) == [("prompt-0", 60, 0.5), ("prompt-1", None, None)]
    assert audit(batch) == []
    again = archive_batch(batch)
    batch.doc_eval("DELETE FROM batch_prompts; DELETE FROM batch_connections; DELETE FROM batch_folders")
    batch.doc_eval("DELETE FROM batch_progress; DELETE FROM connection_history; DELETE FROM batches")
    batch.doc_eval("UPDATE prompts SET threshold = 70, weight = NULL")
    restore_batch(batch, again)
    assert batch.doc_eval(criteria) == [("prompt-0", 70, None), ("prompt-1", 70, None)]


def test_an_archive_of_before_there_were_margins_and_thresholds_comes_without_them(
    batch_of: BatchOf, tmp_path: Path
) -> None:
    batch = batch_of(documents=2)
    archived = elsewhere(done(batch), tmp_path)
    change(archived.path, forget_criteria)
    restore_batch(batch, archived)
    assert batch.doc_eval("SELECT DISTINCT margin, threshold, weight FROM batches, prompts") == [
        (None, None, None)
    ]
    assert audit(batch) == []


def forget_criteria(members: Members) -> None:
    """Remove what archives of earlier versions do not have."""
    content = members[BATCH]
    for absent in (b',"margin":null', b',"threshold":null', b',"weight":null'):
        assert absent in content
        content = content.replace(absent, b"")
    members[BATCH] = content


def test_the_rows_of_another_doc_eval_in_the_same_database_are_left_alone(
    batch_of: BatchOf, tmp_path: Path
) -> None:
    batch = done(batch_of(documents=1))
    archived = elsewhere(batch, tmp_path)
    batch.knowledge("INSERT INTO batch_configs VALUES (:id, '{}', repeat('0', 64))")
    with pytest.raises(
        ArchiveError, match="KnowledgeDocuments has another batch 1, which belongs to another doc_eval"
    ):
        restore_batch(batch, archived)
    assert batch.doc_eval("SELECT count(*) FROM batches") == [(0,)]


def test_the_same_batch_of_another_installation_is_another_batch(batch_of: BatchOf, tmp_path: Path) -> None:
    batch = done(batch_of(documents=1))
    archived = elsewhere(batch, tmp_path)
    shutil.move(batch.folder, tmp_path / "moved")
    done(batch_of(documents=1))
    with pytest.raises(ArchiveError, match="batch number 1 is already used here by 'sample'"):
        restore_batch(batch, archived)


def test_an_older_archive_of_the_batch_is_refused_with_the_one_to_restore(
    batch_of: BatchOf, tmp_path: Path
) -> None:
    batch = done(batch_of(documents=1))
    first = archive_batch(batch)
    restore_batch(batch, first)
    batch.plant("UPDATE llm_responses SET overall_score = 1")
    second = archive_batch(batch)
    with pytest.raises(ArchiveError, match=f"is not the archive of .*: restore {second.path.name}"):
        restore_batch(batch, first)
    copy = tmp_path / "copy.zip"
    shutil.copy(second.path, copy)
    assert restore_file(batch.databases, copy).rows == 4


def test_a_damaged_file_changes_nothing(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=2))
    archived = archive_batch(batch)
    before, content = holdings(batch), archived.path.read_bytes()
    position = content.index(b"documents/") + 100
    for damaged in (
        content[:-1],
        content[:position],
        content[:position] + b"\0\1\2" + content[position + 3 :],
    ):
        archived.path.write_bytes(damaged)
        with pytest.raises(ArchiveError, match="is damaged"):
            restore_batch(batch, archived)
        assert holdings(batch) == before
    archived.path.write_bytes(content)
    restore_batch(batch, archived)


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("version", 2, r"format 2"),
        ("schemas", {"doc_eval": "9999", "knowledge": "0001"}, "schema doc_eval 9999"),
        ("schemas", {"doc_eval": "0001", "knowledge": "9999"}, "schema knowledge 9999"),
    ],
)
def test_a_file_of_a_newer_version_names_what_is_newer(
    batch_of: BatchOf, key: str, value: object, what: str
) -> None:
    batch = done(batch_of(documents=1))
    archived = archive_batch(batch)
    edit_manifest(archived.path, lambda manifest: manifest.update({key: value}))
    before = holdings(batch)
    with pytest.raises(ArchiveError, match=rf"was written by a newer version of doceval_pipeline \({what}\)"):
        restore_batch(batch, archived)
    assert holdings(batch) == before


def test_what_the_database_refuses_leaves_the_batch_archived(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=2))
    archived = archive_batch(batch)
    before = holdings(batch)
    batch.knowledge("ALTER TABLE llm_responses ADD CONSTRAINT refuse_all CHECK (prompt_id < 0)")
    try:
        with pytest.raises(ArchiveError, match=r"attempts.jsonl: a row violates the constraint refuse_all"):
            restore_batch(batch, archived)
    finally:
        batch.knowledge("ALTER TABLE llm_responses DROP CONSTRAINT refuse_all")
    assert holdings(batch) == before
    assert is_marked_archived(batch)
    restore_batch(batch, archived)


def test_rows_that_an_interrupted_archive_left_are_taken_if_they_are_the_same(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=2))
    before = holdings(batch)
    archived = archive_batch(batch)
    restore_batch(batch, archived)
    # As if it had been killed after the batch was called archived, and before anything was removed.
    batch.doc_eval(
        "UPDATE batches SET archived_at = now(), archive_file = :file, archive_sha256 = :sha256",
        file=archived.path.name,
        sha256=sha256(archived.path.read_bytes()),
    )
    restore_batch(batch, archived)
    assert holdings(batch) == before


def test_rows_that_changed_since_an_interrupted_archive_are_not_thrown_away(batch_of: BatchOf) -> None:
    batch = done(batch_of(documents=2))
    archived = archive_batch(batch)
    restore_batch(batch, archived)
    batch.doc_eval(
        "UPDATE batches SET archived_at = now(), archive_file = :file, archive_sha256 = :sha256",
        file=archived.path.name,
        sha256=sha256(archived.path.read_bytes()),
    )
    batch.plant(
        "UPDATE llm_responses SET response_text = 'late' WHERE id = (SELECT min(id) FROM llm_responses)"
    )
    with pytest.raises(
        ArchiveError, match=f"that differ from the archive: run doceval archive {batch.id} first"
    ):
        restore_batch(batch, archived)
    assert audit(batch) == [(batch.key, "the rows of every archived batch are removed from both databases")]
    again = archive_batch(batch)
    restore_batch(batch, again)
    assert batch.knowledge("SELECT count(*) FROM llm_responses WHERE response_text = 'late'") == [(1,)]
    with pytest.raises(BatchStateError, match="is not archived"):
        restore_batch(batch, again)


REUSED = "SELECT count(*), min(reused_batch_id), max(reused_batch_id) FROM llm_responses WHERE batch_id = :id"
QUESTIONS = "SELECT count(*) FROM batch_questions WHERE batch_id = :id"


def test_results_of_another_installation_are_not_reused_and_name_no_batch_of_this_one(
    batch_of: BatchOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(batch_of(documents=2, name="earlier"))
    batch = batch_of(documents=0, name="reusing")
    shutil.copytree(tmp_path / "earlier", batch.folder, dirs_exist_ok=True)
    batch.doc_eval("UPDATE batches SET reuse = 'finished' WHERE id = :id")
    done(batch)
    assert batch.knowledge(REUSED) == [(8, 1, 1)]
    archived = elsewhere(batch, tmp_path)

    def fail(*_: object) -> None:
        raise ArchiveError("killed before the rows are committed")

    # It is known here then, and its file is the one that it is said to have been archived as.
    put_back = restore._load_configuration
    with monkeypatch.context() as context:
        context.setattr(restore, "_load_configuration", lambda *of: fail(put_back(*of)))
        with pytest.raises(ArchiveError, match="killed"):
            restore_batch(batch, archived)
    for _ in range(2):
        restore_batch(batch, archived)
        assert batch.knowledge(REUSED) == [(8, 0, 0)]
        assert batch.knowledge(QUESTIONS) == [(0,)]
        assert batch.doc_eval("SELECT is_foreign FROM batches") == [(True,)]
        assert audit(batch) == []
        archived = archive_batch(batch)
    restore_batch(batch, archived)
    later = batch_of(documents=0, name="later")
    shutil.copytree(tmp_path / "earlier", later.folder, dirs_exist_ok=True)
    later.doc_eval("UPDATE batches SET reuse = 'finished' WHERE id = :id")
    later.stage()
    assert later.knowledge(REUSED) == [(8, None, None)]
