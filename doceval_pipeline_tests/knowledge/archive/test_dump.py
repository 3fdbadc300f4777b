"""Contents are read in bounded pieces, whatever their size, and a digest tells any change of a row."""

from collections.abc import Callable

import pytest
from sqlalchemy import text

from doceval_pipeline.documents.reading import decode
from doceval_pipeline.knowledge.archive import dump
from doceval_pipeline.migrations.rows import write_exactly
from doceval_pipeline_tests.conftest import Sample

BatchOf = Callable[..., Sample]


@pytest.mark.parametrize("size", [1, 2, 3, 99, 100, 101, 1000])
def test_a_large_content_comes_in_pieces_that_can_each_be_decoded(
    batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(dump, "SMALL_DOCUMENT", 100)
    monkeypatch.setattr(dump, "PIECE", 44)
    batch = batch_of(documents=0)
    contents = {bytes([n]) * size for n in range(3)}
    for content in contents:
        (batch.folder / f"{content[0]}").write_bytes(content)
    batch.stage()
    found = {}
    with batch.databases.knowledge.connect() as connection:
        ids = dump.document_ids(connection, batch.id, [])
        for content in dump.stored_documents(connection, ids):
            pieces = list(content.pieces)
            assert size <= 100 or {len(piece) for piece in pieces[:-1]} == {44}
            found[content.sha256] = b"".join(decode(piece) for piece in pieces)
    assert set(found.values()) == contents
    assert list(found) == sorted(found)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE llm_responses SET response_text = '' WHERE id = :row",
        "UPDATE llm_responses SET time_taken_seconds = 0.1 WHERE id = :row",
        "UPDATE llm_responses SET created_at = created_at + interval '1 us' WHERE id = :row",
        "UPDATE llm_responses SET connection_details = connection_details || '{\"a\": 1}' WHERE id = :row",
        "UPDATE llm_responses SET withdrawn_at = now() WHERE id = :row",
        "DELETE FROM llm_responses WHERE id = :row",
    ],
)
def test_the_digest_of_rows_tells_every_change(batch_of: BatchOf, change: str) -> None:
    batch = batch_of(documents=2)
    batch.stage()
    first = batch.knowledge("SELECT min(id) FROM llm_responses")[0][0]
    with batch.databases.knowledge.begin() as connection:
        write_exactly(connection)
        before = dump.rows_digest(connection, batch.id)
        connection.execute(text(change), {"row": first})
        assert dump.rows_digest(connection, batch.id) != before
        connection.rollback()


def test_the_digest_does_not_depend_on_how_a_server_is_configured_to_write(batch_of: BatchOf) -> None:
    batch = batch_of(documents=1)
    batch.stage()
    batch.knowledge("UPDATE llm_responses SET time_taken_seconds = 0.1::float8 + 0.2, task_id = id::text")
    digests = set()
    for setting in ("TimeZone = 'Asia/Kolkata'", "extra_float_digits = -10", "DateStyle = 'German'"):
        with batch.databases.knowledge.connect() as connection:
            connection.execute(text(f"SET LOCAL {setting}"))
            write_exactly(connection)
            digests.add(dump.rows_digest(connection, batch.id))
            (row, *_) = dump.attempt_rows(connection, batch.id)
            assert "0.30000000000000004" in row
            assert "+00:00" in row
    assert len(digests) == 1
