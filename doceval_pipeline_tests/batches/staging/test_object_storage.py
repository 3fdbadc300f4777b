"""Batches over folders on object storage: staged, rescanned, archived, and without a trace of credentials."""

import base64
import hashlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.files.folders import folder_problems, notes_on_nesting
from doceval_pipeline.batches.staging.applying import preview
from doceval_pipeline.batches.staging.planning import plan
from doceval_pipeline.batches.staging.recurring import make_occurrence
from doceval_pipeline.batches.staging.reprocessing import Mode
from doceval_pipeline.batches.staging.rescanning import rescan_folders
from doceval_pipeline.batches.staging.steps import assign_documents, seal_batch, store_documents
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline.doc_eval.definitions.evaluation_file import key_path, load_evaluation_file, locate
from doceval_pipeline.doc_eval.recurring.stored import find_recurring
from doceval_pipeline.documents import stores
from doceval_pipeline.documents.reading import SMALL_DOCUMENT
from doceval_pipeline.errors import EvaluationFileError, StagingError
from doceval_pipeline_tests.batches.archiving.archives import (
    archive_batch,
    audit,
    done,
    empty_installation,
    holdings,
    restore_batch,
)
from doceval_pipeline_tests.batches.staging.nights import FIRST
from doceval_pipeline_tests.conftest import Sample, evaluation_of, write_old
from doceval_pipeline_tests.documents import s3_server
from doceval_pipeline_tests.documents.s3_server import ACCESS_KEY, S3, SECRET_KEY, Answer

FOLDER = "s3://documents/in"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setattr(stores, "FIRST_WAIT", 0.01)
    with s3_server.running() as server:
        yield server.prepared(monkeypatch)


def batch_over(databases: Databases, *folders: str, **keys: Any) -> Sample:
    located = evaluation_of([{"name": "remote", "folders": list(folders), **keys}])
    applied = apply_evaluation(databases.doc_eval, located)
    return Sample(databases, applied.numbers["remote"], "remote", Path())


def files_of(batch: Sample) -> dict[str, tuple[str, str | None]]:
    """State and reason of each file by its path."""
    rows = batch.doc_eval(
        "SELECT d.filepath, b.state, b.reason FROM batch_documents b "
        "JOIN documents d ON d.id = b.document_id WHERE b.batch_id = :id ORDER BY d.filepath"
    )
    return {row.filepath: (row.state, row.reason) for row in rows}


def stored(batch: Sample) -> set[bytes]:
    """The stored contents; the sha256 of each is that of its bytes."""
    rows = batch.knowledge("SELECT sha256, content FROM docs")
    contents = {row.sha256: base64.b64decode(row.content, validate=True) for row in rows}
    assert all(hashlib.sha256(content).hexdigest() == sha256 for sha256, content in contents.items())
    return set(contents.values())


def test_a_batch_over_local_and_remote_folders_is_staged(
    databases: Databases, s3: S3, tmp_path: Path
) -> None:
    write_old(tmp_path / "local.txt", "local")
    large = b"large " * (SMALL_DOCUMENT // 6 + 1)
    for key, content in {"a.txt": b"a", "sub/b.txt": b"b", "large.txt": large, "odd//c": b"c"}.items():
        s3.put("documents", f"in/{key}", content)
    batch = batch_over(databases, str(tmp_path), f"{FOLDER}/")
    batch.stage()
    assert files_of(batch) == {
        "a.txt": ("STAGED", None),
        "large.txt": ("STAGED", None),
        "local.txt": ("STAGED", None),
        "odd//c": ("REJECTED", "unreadable name"),
        "sub/b.txt": ("STAGED", None),
    }
    assert stored(batch) == {b"a", b"b", b"local", large}
    assert batch.status() == "STAGED"
    assert {row.folder_path for row in batch.doc_eval("SELECT * FROM folders")} == {str(tmp_path), FOLDER}
    versions = batch.doc_eval(
        "SELECT d.filepath FROM batch_documents b JOIN documents d ON d.id = b.document_id "
        "WHERE b.etag IS NOT NULL AND b.modified_ns IS NOT NULL ORDER BY 1"
    )
    assert [row.filepath for row in versions] == ["a.txt", "large.txt", "odd//c", "sub/b.txt"]
    assert audit(batch) == []


def test_an_object_that_changes_or_vanishes_before_it_is_read_is_left_out(
    databases: Databases, s3: S3
) -> None:
    for key in ("changes", "stays", "vanishes"):
        s3.put("documents", f"in/{key}", f"old {key}".encode())
    batch = batch_over(databases, FOLDER)
    seal_batch(databases, batch.id)
    assign_documents(databases, batch.id)
    s3.put("documents", "in/changes", b"new changes")
    s3.delete("documents", "in/vanishes")
    store_documents(databases, batch.id, lambda *_: None)
    assert files_of(batch) == {
        "changes": ("REJECTED", "changed while being read"),
        "stays": ("STAGED", None),
        "vanishes": ("REJECTED", "vanished"),
    }
    assert stored(batch) == {b"old stays"}
    rescan_folders(databases, batch.id)
    batch.stage()
    assert stored(batch) == {b"old stays", b"new changes"}


def test_a_rescan_reads_only_objects_in_another_version(
    databases: Databases, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_server.time, "time", lambda: 1_000_000_000.0)
    for key in ("changes", "goes", "rewritten", "stays"):
        s3.put("documents", f"in/{key}", f"old {key}".encode())
    batch = batch_over(databases, FOLDER)
    batch.stage()
    s3.requests.clear()
    rescanned = rescan_folders(databases, batch.id)
    assert (rescanned.new, rescanned.changed, rescanned.gone) == (0, 0, 0)
    assert s3.gets() == []
    # The same size at the same second: only the ETag tells the new version.
    s3.put("documents", "in/changes", b"new changes")
    monkeypatch.setattr(s3_server.time, "time", lambda: 1_000_000_001.0)
    s3.put("documents", "in/rewritten", b"old rewritten")
    s3.put("documents", "in/comes", b"new comes")
    s3.delete("documents", "in/goes")
    rescanned = rescan_folders(databases, batch.id)
    assert (rescanned.new, rescanned.changed, rescanned.gone) == (1, 1, 1)
    assert sorted(s3.gets()) == ["in/changes", "in/rewritten"]
    batch.stage()
    assert stored(batch) >= {b"new changes", b"new comes", b"old rewritten", b"old stays"}
    s3.requests.clear()
    assert rescan_folders(databases, batch.id).changed == 0
    assert s3.gets() == []
    assert audit(batch) == []


def test_objects_are_read_at_the_same_time(databases: Databases, s3: S3) -> None:
    readers = databases.settings.readers
    for number in range(readers):
        s3.put("documents", f"in/{number:03}", str(number).encode())
    batch = batch_over(databases, FOLDER)
    seal_batch(databases, batch.id)
    assign_documents(databases, batch.id)
    # Nothing is answered before all of them are asked for.
    together = threading.Barrier(readers)

    def wait(method: str, path: str) -> None:
        together.wait(30)

    s3.fails = wait
    store_documents(databases, batch.id, lambda *_: None)
    assert len(stored(batch)) == readers


def test_a_store_that_fails_ends_the_step_in_one_line_and_the_next_run_completes_it(
    databases: Databases, s3: S3
) -> None:
    for number in range(50):
        s3.put("documents", f"in/{number}", str(number).encode())
    batch = batch_over(databases, FOLDER)
    seal_batch(databases, batch.id)
    assign_documents(databases, batch.id)
    s3.fails = lambda method, path: Answer(400, "ExpiredToken") if path.endswith("/in/7") else None
    with pytest.raises(StagingError, match="the credentials have expired") as failure:
        store_documents(databases, batch.id, lambda *_: None)
    assert "\n" not in str(failure.value)
    assert not any(state == "REJECTED" for state, _ in files_of(batch).values())
    s3.fails = lambda method, path: None
    batch.stage()
    assert len(stored(batch)) == 50


def test_a_preview_and_a_plan_list_the_folder(databases: Databases, s3: S3) -> None:
    s3.put("documents", "in/a.txt", b"a")
    s3.put("documents", "in/.hidden", b"b")
    batch = batch_over(databases, FOLDER)
    (found,) = preview(databases, {"remote": batch.id}).values()
    assert (found.usable, found.whole) == (1, True)
    planned = plan(databases, batch.id, Mode.missing, lambda *_: None)
    assert (planned.documents.added, planned.documents.unusable) == (1, {"hidden": 1})
    s3.fails = lambda method, path: Answer(403, "AccessDenied")
    (denied,) = preview(databases, {"remote": batch.id}).values()
    assert any("access is denied (403 AccessDenied)" in note for note in denied.notes)


def test_folders_inside_others_are_counted_once(databases: Databases, s3: S3) -> None:
    for key in ("a.txt", "sub/b.txt"):
        s3.put("documents", f"in/{key}", key.encode())
    inner = f"{FOLDER}/sub"
    assert notes_on_nesting([FOLDER, inner]) == [
        f"folder {inner!r} is inside {FOLDER!r}: its files are counted once, as files of {inner!r}"
    ]
    batch = batch_over(databases, FOLDER, inner)
    batch.stage()
    assert files_of(batch) == {
        "a.txt": ("STAGED", None),
        "b.txt": ("STAGED", None),
        "sub": ("SKIPPED", "folder counted by itself"),
    }


def test_a_recurring_evaluation_finds_objects_in_another_version(
    databases: Databases, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_server.time, "time", lambda: 1_000_000_000.0)
    for key in ("changes", "stays"):
        s3.put("documents", f"in/{key}", f"old {key}".encode())
    content = {
        "connections": [{"name": "model", "provider": "simulation", "model": "m"}],
        "prompts": [{"name": "clarity", "text": "Clear?"}],
        "recurring": [
            {
                "name": "inbox",
                "schedule": "0 1 * * *",
                "folders": [FOLDER],
                "connections": ["model"],
                "prompts": ["clarity"],
            }
        ],
    }
    apply_evaluation(databases.doc_eval, locate(content, None, key_path))
    for night, expected in enumerate([{"changes", "stays"}, None, {"changes"}]):
        if night == 2:
            s3.put("documents", "in/changes", b"new changes")
        with databases.doc_eval.connect() as connection:
            record = find_recurring(connection, "inbox")
        made = make_occurrence(databases, record, FIRST.replace(day=FIRST.day + night))
        assert (made.batch_id is None) == (expected is None)
        if made.batch_id is not None:
            assert set(files_of(Sample(databases, made.batch_id, "", Path()))) == expected


def test_an_archive_keeps_urls_versions_and_odd_names(databases: Databases, s3: S3) -> None:
    for key in ("a.txt", "odd//b", "marker/"):
        s3.put("documents", f"in/{key}", b"" if key == "marker/" else b"x")
    batch = done(batch_over(databases, FOLDER))
    before = holdings(batch)
    archived = archive_batch(batch)
    empty_installation(batch)
    restore_batch(batch, archived)
    after = holdings(batch)
    for table in ("folders", "documents", "batch_documents", "batch_folders"):
        assert after[table] == before[table]


def test_credentials_are_in_no_row_and_no_report(
    databases: Databases, s3: S3, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    s3.put("documents", "in/a.txt", b"a")
    batch = done(batch_over(databases, FOLDER))
    s3.fails = lambda method, path: Answer(503, "SlowDown")
    with pytest.raises(StagingError) as failure:
        rescan_folders(databases, batch.id)
    written = [
        caplog.text,
        str(failure.value),
        *(path.read_text() for path in databases.settings.reports.rglob("*.html")),
    ]
    for engine in (databases.doc_eval, databases.knowledge):
        with engine.connect() as connection:
            tables = connection.scalars(
                text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
            )
            for table in tables:
                written += connection.scalars(text(f'SELECT t::text FROM "{table}" t'))
    for secret in (ACCESS_KEY, SECRET_KEY, SECRET_KEY.replace("/", "%2F"), "X-Amz"):
        assert not any(secret in one for one in written)


def test_an_evaluation_file_names_the_line_of_a_url_that_cannot_be_a_folder(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "evaluation.yaml"
    path.write_text("""\
connections: [{name: m, provider: simulation, model: m}]
prompts: [{name: p, text: "Clear?"}]
batches:
  - name: b
    connections: [m]
    prompts: [p]
    folders:
      - ftp://host/in
      - s3://user:PLAINWORDS@bucket/in
      - s3://bucket/in?token=PLAINWORDS
      - s3://bucket//in
      - s3://bucket/in
      - s3://bucket/in/
""")
    with pytest.raises(EvaluationFileError) as refused:
        load_evaluation_file(path, folder_problems(settings)).refuse()
    lines = str(refused.value).splitlines()
    assert [line.split(":")[1] for line in lines if line.startswith(str(path))] == [
        "8",
        "9",
        "10",
        "11",
        "13",
    ]
    assert "PLAINWORDS" not in str(refused.value)
    monkeypatch.setitem(sys.modules, "obstore", None)
    path.write_text(path.read_text().partition("    folders")[0] + '    folders: ["s3://bucket/in"]\n')
    with pytest.raises(EvaluationFileError, match=r"install doceval-pipeline\[cloud\]"):
        load_evaluation_file(path, folder_problems(settings)).refuse()
