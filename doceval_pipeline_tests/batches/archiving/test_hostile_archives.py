"""An untrusted archive changes nothing until all checks have passed."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from doceval_pipeline.archives.checking import check
from doceval_pipeline.archives.format import ATTEMPTS, BATCH, CONFIG, FILES, HISTORY, MEMBERS, REPORT, ROWS
from doceval_pipeline.archives.reading import open_archive
from doceval_pipeline.archives.rows import (
    Attempt,
    BatchRow,
    ConnectionRow,
    Doc,
    FileRow,
    FolderRow,
    HistoryRow,
    PlaceRow,
    ProgressRow,
    PromptRow,
    PublishedRow,
)
from doceval_pipeline.archives.values import Values
from doceval_pipeline.batches.archiving.restore import DIFFERS, NEW, open_incoming, restore
from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.monitoring.status import every_progress
from doceval_pipeline.errors import ArchiveError, DocEvalError
from doceval_pipeline_tests.archives.small import Members, change, read_members, sha256, write_members
from doceval_pipeline_tests.batches.archiving.archives import (
    BatchOf,
    archive_batch,
    audit,
    done,
    empty_installation,
    holdings,
    quiet,
    restore_file,
)
from doceval_pipeline_tests.conftest import Sample

# The columns of each table that a row of it may have; connections have more in an archive.
TABLES: dict[str, type[Values]] = {
    "batches": BatchRow,
    "folders": FolderRow,
    "connections": ConnectionRow,
    "prompts": PromptRow,
    "batch_configs": PublishedRow,
    "documents": FileRow,
    "batch_documents": PlaceRow,
    "llm_responses": Attempt,
    "docs": Doc,
    "batch_progress": ProgressRow,
    "connection_history": HistoryRow,
}
SEQUENCES = "SELECT sequencename, last_value FROM pg_sequences ORDER BY 1"
# In doc_eval a connection in an archive also names what it refers to.
NAMES_OF_A_CONNECTION = {"provider_type", "model_name"}
NOT_IN_AN_ARCHIVE = {"docs": {"content"}}


@pytest.fixture
def foreign(databases: Databases, batch_of: BatchOf, tmp_path: Path) -> tuple[Sample, Path]:
    """An archive of another installation, and a new one that it comes to."""
    empty_installation(Sample(databases, 0, "", tmp_path))
    batch = done(batch_of(documents=2))
    batch.doc_eval("INSERT INTO batch_progress VALUES (:id, now(), 1, 0, 0, 1, 2, 3)")
    batch.doc_eval(
        "INSERT INTO connection_history SELECT :id, id, 'seconds', 3, 1, 2, 3, 4, 5, 6 FROM connections"
    )
    path = tmp_path / "foreign.zip"
    shutil.move(archive_batch(batch).path, path)
    shutil.rmtree(batch.databases.settings.reports)
    empty_installation(batch)
    return batch, path


def everything(batch: Sample) -> object:
    """All rows, the state of all sequences, and all files below the home and beside it."""
    home = batch.databases.settings.home
    written = {str(path) for path in home.parent.rglob("*") if "postgres" not in path.parts}
    return holdings(batch), batch.doc_eval(SEQUENCES), batch.knowledge(SEQUENCES), written


def edit_batch(members: Members, *place: str | int, value: Any) -> None:
    """Change one value in the member of the batch."""
    content = json.loads(members[BATCH])
    put(content, place, value)
    members[BATCH] = batch_bytes(content, members)


def batch_bytes(content: Any, members: Members) -> bytes:
    """The member of the batch, with its sealed configuration in the bytes that were hashed."""
    config = json.loads(members[CONFIG])
    sealed = isinstance(content.get("batch"), dict) and content["batch"].get("config_snapshot") == config
    if sealed:
        content["batch"]["config_snapshot"] = "sealed here"
    return json.dumps(content).encode().replace(b'"sealed here"', members[CONFIG])


def put(content: Any, place: tuple[str | int, ...], value: Any) -> None:
    for key in place[:-1]:
        content = content[key]
    content[place[-1]] = value


def edit_rows(members: Members, member: str, **changed: Any) -> None:
    write_rows(members, member, [row | changed for row in read_rows(members, member)])


def edit_row(members: Members, member: str, **changed: Any) -> None:
    """Change the last row of a member only."""
    *others, last = read_rows(members, member)
    write_rows(members, member, [*others, last | changed])


def read_rows(members: Members, member: str) -> list[Any]:
    return [json.loads(line) for line in members[member].splitlines()]


def write_rows(members: Members, member: str, rows: list[Any]) -> None:
    members[member] = b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def edit_file(members: Members, part: str, **changed: Any) -> None:
    """Change one part of the last file."""
    last = read_rows(members, FILES)[-1]
    edit_row(members, FILES, **{part: last[part] | changed})


def lead_to(members: Members, path: str, shown: str | None = None) -> None:
    """Let the last file have another path."""
    shown = path if shown is None else shown
    name = shown.rpartition("/")[2]
    edit_file(members, "document", raw_path=f"\\x{path.encode().hex()}", filepath=shown, filename=name)


def set_aside(members: Members, **changed: Any) -> None:
    """Add an earlier attempt that was superseded."""
    *others, last = read_rows(members, ATTEMPTS)
    earlier = last | {"superseded_at": "2026-01-01T00:00:00+00:00"} | changed
    write_rows(members, ATTEMPTS, [*others, earlier, last | {"id": last["id"] + 1, "attempt": 2}])


def fail_staging(members: Members, **changed: Any) -> None:
    """Make it the archive of a batch whose staging failed."""
    content = json.loads(members[BATCH])
    content["batch"] |= {"status": "FAILED_STAGING", "completed_at": None, "prices_at_completion": None}
    content["batch"] |= {"result_digest": None, "reported_digest": None, "report_file": None}
    content["batch"] |= changed
    members[BATCH] = batch_bytes(content, members)
    members[ATTEMPTS] = b""


def lead_connection_to(members: Members, url: str) -> None:
    """Send documents elsewhere, everywhere in the archive."""
    seal(members, lambda config: config["connections"][0].update(base_url=url))
    edit_batch(members, "connections", 0, "base_url", value=url)
    sealed = {one["id"]: one for one in json.loads(members[CONFIG])["connections"]}
    rows = read_rows(members, ATTEMPTS)
    write_rows(
        members, ATTEMPTS, [row | {"connection_details": sealed[row["connection_id"]]} for row in rows]
    )


def set_margin(members: Members, value: Any) -> None:
    seal(members, lambda config: config["batch"].update(margin=value))
    edit_batch(members, "batch", "margin", value=value)


def seal(members: Members, edit: Callable[[Any], object]) -> None:
    """Change the sealed configuration wherever it is."""
    config, content = json.loads(members[CONFIG]), json.loads(members[BATCH])
    edit(config)
    members[CONFIG] = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    digest = sha256(members[CONFIG])
    content["batch"] |= {"config_sha256": digest, "config_snapshot": config}
    content["published"] |= {"config": config, "sha256": digest}
    members[BATCH] = batch_bytes(content, members)


ATTACKS: dict[str, Callable[[Members], object]] = {
    "a report outside": lambda m: edit_batch(m, "batch", "reported_digest", value="../../../outside"),
    "a report of another name": lambda m: edit_batch(m, "batch", "report_file", value="../outside.html"),
    "the last number": lambda m: edit_batch(m, "batch", "batch_number", value=2**31 - 1),
    "the last row": lambda m: edit_rows(m, ATTEMPTS, id=2**63 - 1),
    "a far year": lambda m: edit_batch(m, "batch", "created_at", value="200000-01-01T00:00:00+00:00"),
    "the year 1": lambda m: edit_batch(m, "batch", "completed_at", value="0001-01-01T00:00:00+00:00"),
    "another snapshot": lambda m: edit_batch(
        m, "batch", "config_snapshot", "connections", 0, "base_url", value="http://evil.example"
    ),
    "another spelling of it": lambda m: m.update(
        {BATCH: m[BATCH].replace(b'"config_snapshot":{', b'"config_snapshot": { ')}
    ),
    "another published one": lambda m: edit_batch(m, "published", "config", "version", value=2),
    "an open row": lambda m: edit_rows(m, ATTEMPTS, status="QUEUED"),
    "an unknown word": lambda m: edit_rows(m, ATTEMPTS, status="HALF"),
    "another host in a row": lambda m: edit_rows(
        m, ATTEMPTS, connection_details={"base_url": "http://evil.example"}
    ),
    "a row that is given back": lambda m: edit_rows(
        m, ATTEMPTS, superseded_at="2026-01-01T00:00:00+00:00", status="QUEUED", connection_details={}
    ),
    "a row twice": lambda m: edit_rows(m, ATTEMPTS, document_id=1, prompt_id=1, connection_id=1),
    "a key": lambda m: seal(m, lambda c: c["batch"]["metadata"].update(api_key="sk-" + "a1" * 20)),
    "a name that nobody sees": lambda m: seal(m, lambda c: c["prompts"][0].update(name="\u200b")),
    "open for ever": lambda m: edit_batch(m, "batch", "status", value="ANALYZING"),
    "a folder of ours": lambda m: edit_batch(m, "folders", 0, "folder_path", value="relative"),
    "a file twice": lambda m: lead_to(m, "000.txt"),
    "not a number": lambda m: edit_rows(m, HISTORY, sum_x="NaN"),
    "a sum that overflows": lambda m: edit_rows(m, HISTORY, sum_x=1e308),
    "a negative sum": lambda m: edit_rows(m, HISTORY, sum_yy=-1.0),
    "no cell": lambda m: edit_rows(m, HISTORY, cells=0),
    "history of another connection": lambda m: edit_row(m, HISTORY, connection_id=77),
    "a path above": lambda m: lead_to(m, "../../etc/shadow"),
    "an absolute path": lambda m: lead_to(m, "/etc/shadow"),
    "a step up on the way": lambda m: lead_to(m, "a/../../b"),
    "a step nowhere": lambda m: lead_to(m, "a//b"),
    "a step to the same": lambda m: lead_to(m, "./b"),
    "the folder itself": lambda m: lead_to(m, "."),
    "a path with a zero byte": lambda m: lead_to(m, "a\0b", "ab"),
    "a path that is shown as another": lambda m: lead_to(m, "etc/shadow", "harmless"),
    "a name that is not of its path": lambda m: edit_file(m, "document", filename="harmless"),
    "a file of another size": lambda m: edit_file(m, "in_batch", file_size=3),
    "a file that is not stored": lambda m: edit_file(m, "in_batch", state="ASSIGNED"),
    "a request for staging": lambda m: edit_batch(
        m, "batch", "stage_requested_at", value="2026-01-01T00:00:00+00:00"
    ),
    "a failed staging that is requested": lambda m: fail_staging(
        m, stage_requested_at="2026-01-01T00:00:00+00:00"
    ),
    "a failed staging at a time": lambda m: fail_staging(m, stage_after="2026-01-01T00:00:00+00:00"),
    "an open row that was set aside": lambda m: set_aside(m, status="QUEUED"),
    "an open row that was withdrawn": lambda m: edit_row(
        m, ATTEMPTS, status="QUEUED", withdrawn_at="2026-01-01T00:00:00+00:00"
    ),
    "an unknown word that was set aside": lambda m: set_aside(m, status="HALF"),
    "a row that is set aside and leads elsewhere": lambda m: set_aside(m, connection_details={}),
    "a gap between attempts": lambda m: edit_row(m, ATTEMPTS, attempt=2),
    "a deferred row": lambda m: edit_row(m, ATTEMPTS, deferred=True),
    "a done row that waits": lambda m: edit_row(m, ATTEMPTS, not_before="2026-01-01T00:00:00+00:00"),
    "a done row with a lease": lambda m: edit_row(m, ATTEMPTS, lease_expires_at="2026-01-01T00:00:00+00:00"),
    "half an origin": lambda m: edit_row(m, ATTEMPTS, reused_from=1),
    "an origin below all numbers": lambda m: edit_row(m, ATTEMPTS, reused_from=1, reused_batch_id=-1),
    "an origin above all numbers": lambda m: edit_row(m, ATTEMPTS, reused_from=2**63, reused_batch_id=1),
    "a reused result that took tokens": lambda m: edit_row(
        m, ATTEMPTS, reused_from=1, reused_batch_id=1, input_tokens=1
    ),
    "a reused result without a score": lambda m: edit_row(
        m, ATTEMPTS, reused_from=1, reused_batch_id=1, overall_score=None
    ),
    "a result of its own that is no answer": lambda m: edit_row(m, ATTEMPTS, is_answer=False),
    "too many deliveries": lambda m: edit_row(m, ATTEMPTS, deliveries=6),
    "a missing row": lambda m: write_rows(m, ATTEMPTS, read_rows(m, ATTEMPTS)[:-1]),
    "a verdict that the rows do not have": lambda m: edit_rows(m, ATTEMPTS, status="F"),
    "a large number of a row": lambda m: edit_row(m, ATTEMPTS, id=10**15 + 1),
    "a large number of a file": lambda m: (
        edit_file(m, "document", id=10**15 + 1),
        edit_file(m, "in_batch", document_id=10**15 + 1),
    ),
    "a large number of the batch": lambda m: edit_batch(m, "batch", "batch_number", value=10**9 + 1),
    "another description": lambda m: edit_batch(m, "batch", "description", value="another"),
    "another metadata": lambda m: edit_batch(m, "batch", "meta_data", value={"a": 1}),
    "other patterns": lambda m: edit_batch(m, "batch", "include_patterns", value=["*.md"]),
    "patterns that leave out": lambda m: edit_batch(m, "batch", "exclude_patterns", value=["*.md"]),
    "another name": lambda m: edit_batch(m, "batch", "batch_name", value="another"),
    "another folder": lambda m: edit_batch(m, "folders", 0, "folder_path", value="/etc"),
    "other cells": lambda m: edit_batch(m, "batch", "expected_cells", value=7),
    "other files": lambda m: edit_batch(m, "batch", "total_documents", value=7),
    "completed and cancelled": lambda m: edit_batch(
        m, "batch", "cancelled_at", value="2026-01-01T00:00:00+00:00"
    ),
    "another protocol": lambda m: lead_connection_to(m, "file:///etc/shadow"),
    "no host": lambda m: lead_connection_to(m, "https:///v1"),
    "a line break in a host": lambda m: lead_connection_to(m, "https://good.example\n.evil.example"),
    "a key in a row": lambda m: edit_batch(
        m, "connections", 0, "connection_config", value={"api_key": "sk-" + "a1" * 20}
    ),
    "another margin": lambda m: edit_batch(m, "batch", "margin", value=3),
    "a sealed margin alone": lambda m: seal(m, lambda c: c["batch"].update(margin=3)),
    "an empty sealed margin": lambda m: seal(m, lambda c: c["batch"].update(margin=None)),
    "a margin of nothing": lambda m: set_margin(m, 0),
    "a margin above all scores": lambda m: set_margin(m, 100.5),
    "a margin that is true": lambda m: set_margin(m, True),
    "a margin that is text": lambda m: set_margin(m, "3"),
    "a margin that is not a number": lambda m: set_margin(m, float("nan")),
    "a threshold below all scores": lambda m: edit_batch(m, "prompts", 0, "threshold", value=-1),
    "a threshold without end": lambda m: edit_batch(m, "prompts", 0, "threshold", value=float("inf")),
    "a weight of nothing": lambda m: edit_batch(m, "prompts", 0, "weight", value=0),
    "a weight above all others": lambda m: edit_batch(m, "prompts", 0, "weight", value=1e7),
    "a price": lambda m: edit_batch(m, "batch", "prices_at_completion", value={"1": {"currency": "<b>"}}),
}


def refusal(act: Callable[[], object]) -> str | None:
    """The line in which something is refused; None where it is done."""
    try:
        act()
    except DocEvalError as error:
        return str(error)
    return None


def test_an_attack_is_refused_in_one_line_and_changes_nothing(foreign: tuple[Sample, Path]) -> None:
    batch, path = foreign
    attacked = path.with_name("attacked.zip")
    shutil.copy(path, attacked)
    before = everything(batch)
    for name, attack in ATTACKS.items():
        shutil.copy(path, attacked)
        change(attacked, attack)
        line = refusal(lambda: restore_file(batch.databases, attacked))
        assert line is not None, name
        assert len(line.splitlines()) == 1
        assert "the database refused" not in line, name
        assert "attacked.zip" in line, name
        assert everything(batch) == before, name
    assert restore_file(batch.databases, path).rows == 8


MADE_UP: dict[str, Callable[[Members], object]] = {
    "results": lambda m: edit_rows(m, ATTEMPTS, overall_score=99.5),
    "reused results": lambda m: edit_rows(m, ATTEMPTS, reused_from=1, reused_batch_id=1, is_answer=False),
    "a digest": lambda m: edit_batch(m, "batch", "result_digest", value="0123456789abcdef"),
    "no digest": lambda m: (
        edit_batch(m, "batch", "result_digest", value=None),
        edit_batch(m, "batch", "reported_digest", value=None),
        edit_batch(m, "batch", "report_file", value=None),
    ),
    "processed documents": lambda m: edit_batch(m, "batch", "processed_documents", value=77),
    "an earlier attempt": lambda m: set_aside(m, status="F"),
    "a margin": lambda m: set_margin(m, 2.5),
    "a threshold and a weight": lambda m: (
        edit_batch(m, "prompts", 0, "threshold", value=60),
        edit_batch(m, "prompts", 0, "weight", value=0.5),
    ),
    "the largest numbers": lambda m: edit_row(m, ATTEMPTS, id=10**15),
    "a failed staging": fail_staging,
    "another host": lambda m: lead_connection_to(m, "https://models.example/v1"),
}


@pytest.mark.parametrize("name", MADE_UP)
def test_whatever_is_accepted_stands_the_check_and_can_be_archived(
    foreign: tuple[Sample, Path], name: str
) -> None:
    batch, path = foreign
    change(path, MADE_UP[name])
    restore_file(batch.databases, path)
    assert audit(batch) == []
    assert batch.doc_eval(
        "SELECT processed_documents, result_digest IS NOT DISTINCT FROM reported_digest FROM batches"
    ) == [(2, True)]
    assert archive_batch(batch).rows == batch_rows(path)
    assert audit(batch) == []


def batch_rows(path: Path) -> int:
    return read_members(path)[ATTEMPTS].count(b"\n")


def test_addresses_are_shown_as_the_name_service_knows_them(foreign: tuple[Sample, Path]) -> None:
    batch, path = foreign
    long = "https://ex\u00e4mple.com/" + "v" * 400
    change(path, lambda m: lead_connection_to(m, long))
    with open_incoming(batch.databases, path, quiet) as incoming:
        shown = incoming.connections[0].address
    assert shown.startswith("https://ex\u00e4mple.com/v")
    assert shown.endswith("v... (xn--exmple-cua.com)")
    assert len(shown) < 340


def test_a_rule_of_a_table_is_named_with_its_member(foreign: tuple[Sample, Path]) -> None:
    batch, path = foreign
    change(path, lambda m: edit_row(m, ATTEMPTS, lease_expires_at="2026-01-01T00:00:00+00:00"))
    line = refusal(lambda: restore_file(batch.databases, path))
    assert line is not None
    assert (
        f"{path} cannot be restored (attempts.jsonl: a row violates the constraint llm_responses_lease_whole)"
        in line
    )


def test_the_report_is_our_own_and_not_the_archived_one(foreign: tuple[Sample, Path]) -> None:
    batch, path = foreign
    change(path, lambda m: m.update({"report.html": b"<script>evil()</script>"}))
    restore_file(batch.databases, path)
    (report,) = batch.databases.settings.reports.iterdir()
    assert b"evil" not in report.read_bytes()
    assert b"Complete" in report.read_bytes()
    assert batch.doc_eval("SELECT report_file FROM batches") == [(report.name,)]
    assert audit(batch) == []


def test_connections_that_are_not_here_like_this_must_be_accepted(foreign: tuple[Sample, Path]) -> None:
    batch, path = foreign
    before = everything(batch)
    with open_incoming(batch.databases, path, quiet) as incoming:
        assert not incoming.is_own
        assert [(one.name, one.difference) for one in incoming.connections] == [
            ("model-0", NEW),
            ("model-1", NEW),
        ]
        assert incoming.new_folders == [str(batch.folder)]
        with pytest.raises(
            ArchiveError, match=r"model-0 \(new\): .* folders that .* with --accept-connections"
        ):
            restore(batch.databases, incoming, quiet)
    assert everything(batch) == before
    batch.doc_eval("INSERT INTO llm_providers (provider_type) VALUES ('simulation')")
    batch.doc_eval("INSERT INTO models (provider_id, model_name) VALUES (1, 'm0'), (1, 'm1')")
    batch.doc_eval(
        "INSERT INTO connections (name, provider_id, model_id, api_key_env, base_url) "
        "VALUES ('model-0', 1, 1, 'SOME_KEY', NULL), ('model-1', 1, 2, 'SOME_KEY', 'https://ours.example')"
    )
    with open_incoming(batch.databases, path, quiet) as incoming:
        assert [(one.name, one.difference) for one in incoming.unknown] == [("model-1", DIFFERS)]
    batch.doc_eval("UPDATE connections SET base_url = NULL")
    with open_incoming(batch.databases, path, quiet) as incoming:
        assert incoming.unknown == []
        with pytest.raises(ArchiveError, match=r"brings folders that no batch here has: .* --accept-connec"):
            restore(batch.databases, incoming, quiet)
    batch.doc_eval(
        "INSERT INTO folders (id, folder_path, folder_name) OVERRIDING SYSTEM VALUE "
        f"VALUES (1, '{batch.folder}', 'documents')"
    )
    with open_incoming(batch.databases, path, quiet) as incoming:
        assert not incoming.must_be_accepted
        restore(batch.databases, incoming, quiet)
    assert audit(batch) == []


def test_every_column_of_an_archived_table_has_its_bounds(databases: Databases) -> None:
    columns = text("SELECT column_name FROM information_schema.columns WHERE table_name = :table")
    for table, row in TABLES.items():
        found: set[str] = set()
        for engine in (databases.doc_eval, databases.knowledge):
            with engine.connect() as connection:
                found |= set(connection.scalars(columns, {"table": table}))
        more = NAMES_OF_A_CONNECTION if table == "connections" else set()
        expected = found - NOT_IN_AN_ARCHIVE.get(table, set()) | more
        assert row.model_fields.keys() == expected, f"archives/rows.py and the table {table} differ"


HOSTILE = [
    2**63 - 1, 2**31 - 1, -1, True, 1.5, float("nan"), "", "\0", "\ud800", "x" * 70_000, "../../../outside",
    "200000-01-01T00:00:00+00:00", "NaN", None, {"id": 1},
]  # fmt: skip


def leaves(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from leaves(inner, (*place, key))


def mutations(members: Members) -> Iterator[tuple[str, tuple[str | int, ...], bytes]]:
    """Each value of each member replaced by each hostile one: the member, the place, and its new bytes."""
    for name in (*MEMBERS, "manifest.json"):
        if name == REPORT:
            continue
        first, rest = members[name].split(b"\n", 1) if name in ROWS else (members[name], b"")
        for place in leaves(json.loads(first)):
            for value in HOSTILE:
                content = json.loads(first)
                put(content, place, value)
                if name == BATCH:
                    yield name, place, batch_bytes(content, members)
                else:
                    yield name, place, json.dumps(content).encode() + (b"\n" + rest if name in ROWS else b"")


def checked(path: Path) -> None:
    with open_archive(path) as archive:
        check(archive, quiet)


@pytest.mark.faults
def test_a_hostile_value_is_refused_or_does_no_harm(foreign: tuple[Sample, Path]) -> None:
    batch, path = foreign
    members, changed = read_members(path), path.with_name("changed.zip")
    shutil.copy(path, changed)
    before, taken = everything(batch), set()
    for name, place, content in mutations(members):
        shutil.copy(path, changed)
        if name == "manifest.json":
            write_members(changed, (members | {name: content}).items())
        else:
            change(changed, lambda m, new={name: content}: m.update(new))  # type: ignore[misc] # a default
        line = refusal(lambda: checked(changed))
        if line is not None:
            assert len(line.splitlines()) == 1
            continue
        if (name, place) in taken:
            # What a field takes goes into the databases once.
            continue
        taken.add((name, place))
        line = refusal(lambda: restore_file(batch.databases, changed))
        if line is not None:
            assert len(line.splitlines()) == 1
            assert everything(batch) == before, (name, place)
            continue
        (shown,) = every_progress(batch.databases)
        assert shown.batch.id == batch.id
        empty_installation(batch)
        shutil.rmtree(batch.databases.settings.reports, ignore_errors=True)
        before = everything(batch)
    assert taken
