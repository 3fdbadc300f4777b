"""Versions and copies of documents: which of them are one cluster."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.doc_eval.clusters import document_clusters

Placed = tuple[int, str, int | None]
"""Batch, path and `docs.id`; None for a file that was left out."""

FOLDERS = text(
    "INSERT INTO folders (id, folder_path, folder_name) VALUES (1, '/one', 'one'), (2, '/two', 'two')"
)
BATCHES = text("""
    INSERT INTO batches (id, batch_number, batch_name)
    SELECT n, n, n || ' of many' FROM generate_series(1, 9) AS n
""")
FILE = text("""
    INSERT INTO documents (folder_id, filepath, filename, raw_path)
    SELECT CASE WHEN path LIKE 'two/%' THEN 2 ELSE 1 END, path, path, convert_to(path, 'UTF8')
    FROM unnest(CAST(:paths AS text[])) AS path
""")
PLACE = text("""
    INSERT INTO batch_documents (batch_id, document_id, state, reason, sha256, knowledge_document_id)
    SELECT :batch, d.id, CASE WHEN CAST(:content AS bigint) IS NULL THEN 'REJECTED' ELSE 'STAGED' END,
           CASE WHEN CAST(:content AS bigint) IS NULL THEN 'empty' END, repeat('0', 64), :content
    FROM documents d WHERE filepath = :path
""")


def place(connection: Connection, placed: Iterable[Placed]) -> None:
    """Assign files with their contents to batches."""
    placed = list(placed)
    connection.execute(FOLDERS)
    connection.execute(BATCHES)
    connection.execute(FILE, {"paths": sorted({path for _, path, _ in placed})})
    for batch, path, content in placed:
        connection.execute(PLACE, {"batch": batch, "path": path, "content": content})


ALL_BATCHES = range(1, 10)


def clusters(
    databases: Databases,
    placed: Sequence[Placed],
    given_ids: Iterable[int],
    batch_ids: Iterable[int] = ALL_BATCHES,
) -> dict[int, int]:
    """The clusters of documents that were placed so; nothing stays in the database."""
    with databases.doc_eval.connect() as connection, connection.begin() as transaction:
        place(connection, placed)
        found = document_clusters(connection, batch_ids, given_ids)
        transaction.rollback()
    return found


def naive(
    placed: Sequence[Placed], given_ids: Iterable[int], batch_ids: Iterable[int] = ALL_BATCHES
) -> dict[int, int]:
    """The same, from the definition: merge groups until no two of them share a file or a content."""
    files = {path for batch, path, _ in placed if batch in {*batch_ids}}
    groups = [({path}, {content}) for _, path, content in placed if content is not None and path in files]
    while True:
        pair = next(
            (
                (one, other)
                for place, one in enumerate(groups)
                for other in groups[:place]
                if one[0] & other[0] or one[1] & other[1]
            ),
            None,
        )
        if pair is None:
            break
        groups.remove(pair[0])
        pair[1][0].update(pair[0][0])
        pair[1][1].update(pair[0][1])
    shared = [contents & set(given_ids) for _, contents in groups]
    return {number: min(group) for group in shared if len(group) > 1 for number in group}


@pytest.mark.parametrize(
    ("placed", "expected"),
    [
        ([], {}),
        ([(1, "a", 10), (1, "b", 11)], {}),
        # Copies have the same content, so they are one document.
        ([(1, "a", 10), (1, "b", 10)], {}),
        ([(1, "a", 10), (2, "a", 11)], {10: 10, 11: 10}),
        ([(1, "a", 11), (2, "a", 10), (3, "a", 11)], {10: 10, 11: 10}),
        # A copy that was changed later.
        ([(1, "a", 10), (1, "b", 10), (2, "b", 11)], {10: 10, 11: 10}),
        # A moved file that was changed later.
        ([(1, "a", 10), (2, "two/a", 10), (3, "two/a", 11)], {10: 10, 11: 10}),
        # Connected by a content that is not asked for.
        ([(1, "a", 10), (2, "a", 99), (1, "b", 99), (2, "b", 11)], {10: 10, 11: 10}),
        ([(1, "a", 10), (2, "a", 99), (1, "b", 98), (2, "b", 11)], {}),
        # Files are told apart by their bytes and their folder.
        ([(1, "a", 10), (2, "A", 11)], {}),
        ([(1, "\u00fc", 10), (2, "u\u0308", 11)], {}),
        ([(1, "a", 10), (2, "two/a", 11)], {}),
        # A file that was left out has no content.
        ([(1, "a", 10), (2, "a", None), (1, "b", 11), (2, "b", None)], {}),
    ],
)
def test_documents_that_files_connect_are_one_cluster(
    databases: Databases, placed: list[Placed], expected: dict[int, int]
) -> None:
    assert clusters(databases, placed, [10, 11, 12]) == expected == naive(placed, [10, 11, 12])


def test_two_chains_are_two_clusters_and_a_document_alone_is_in_none(databases: Databases) -> None:
    placed = [(1, "a", 3), (2, "a", 2), (1, "b", 7), (2, "b", 9), (3, "b", 8), (1, "c", 5)]
    assert clusters(databases, placed, [9, 8, 7, 5, 3, 2, 2]) == {2: 2, 3: 2, 7: 7, 8: 7, 9: 7}
    assert clusters(databases, placed, [9, 5, 3]) == {}
    assert clusters(databases, placed, [9]) == {}
    assert clusters(databases, placed, []) == {}
    assert clusters(databases, placed, [1000, 2**62, 8, 9]) == {8: 8, 9: 8}


PLACED = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from("abcdefgh"), st.one_of(st.none(), st.integers(1, 12))),
    max_size=24,
    unique_by=lambda one: one[:2],
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(placed=PLACED, given_ids=st.sets(st.integers(1, 13)), batch_ids=st.sets(st.integers(1, 4)))
def test_clusters_are_those_of_the_definition(
    databases: Databases, placed: list[Placed], given_ids: set[int], batch_ids: set[int]
) -> None:
    assert clusters(databases, placed, given_ids, batch_ids) == naive(placed, given_ids, batch_ids)


MANY = text("""
    INSERT INTO batch_documents (batch_id, document_id, state, sha256, knowledge_document_id)
    SELECT b, d.id, 'STAGED', repeat('0', 64), d.id + CASE WHEN d.id % 2 = 0 THEN b * 1000000 ELSE 0 END
    FROM documents d, generate_series(1, 4) AS b
""")


def test_a_hundred_thousand_documents_have_their_clusters(databases: Databases) -> None:
    with databases.doc_eval.connect() as connection, connection.begin() as transaction:
        place(connection, [])
        connection.execute(FILE, {"paths": [f"{n}" for n in range(50_000)]})
        connection.execute(MANY)
        ids = list(connection.scalars(text("SELECT DISTINCT knowledge_document_id FROM batch_documents")))
        found = document_clusters(connection, ALL_BATCHES, ids)
        transaction.rollback()
    # Every second file changed in each of four batches.
    assert (len(ids), len(found), len(set(found.values()))) == (125_000, 100_000, 25_000)
