"""Contents arrive whole or not at all, also when their source fails or somebody else was faster."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pybase64
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import text

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.domain.files import Fingerprint
from doceval_pipeline.knowledge.documents import (
    DocumentArrived,
    NewDocument,
    copy_documents,
    find_documents,
    missing_documents,
    take_ids,
)


def new(content: bytes, pieces: int = 1, number: int | None = None) -> NewDocument:
    encoded = pybase64.b64encode(content)
    size = len(encoded) // pieces + 1
    return NewDocument(
        Fingerprint(hashlib.sha256(content).hexdigest(), len(content), "text/plain", "txt"),
        [encoded[start : start + size] for start in range(0, len(encoded), size)],
        number,
        None if number is None else 1_000_000,
    )


@examples(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.binary(max_size=2000), max_size=6), st.integers(1, 5))
def test_what_is_copied_is_what_is_read_back(databases: Databases, contents: set[bytes], pieces: int) -> None:
    with databases.knowledge.begin() as connection:
        copy_documents(connection, [new(content, pieces) for content in contents])
        stored = connection.scalars(text("SELECT content FROM docs")).all()
        connection.rollback()
    assert {pybase64.b64decode(content, validate=True) for content in stored} == contents


def test_a_source_that_fails_leaves_nothing_and_its_error_is_the_one_that_is_raised(
    databases: Databases,
) -> None:
    def breaks() -> Iterator[bytes]:
        yield b"AAAA"
        raise ValueError("the file changed")

    broken = NewDocument(Fingerprint("0" * 64, 6, "text/plain", "txt"), breaks())
    with pytest.raises(ValueError, match="the file changed"), databases.knowledge.begin() as connection:
        copy_documents(connection, [new(b"good"), broken])
    with databases.knowledge.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM docs")) == 0


def test_a_content_that_somebody_else_stored_meanwhile_is_told_apart(databases: Databases) -> None:
    with databases.knowledge.begin() as connection:
        copy_documents(connection, [new(b"one")])
    with pytest.raises(DocumentArrived), databases.knowledge.begin() as connection:
        copy_documents(connection, [new(b"one"), new(b"two")])
    with databases.knowledge.connect() as connection:
        known = find_documents(connection, [new(b"one").fingerprint.sha256, new(b"two").fingerprint.sha256])
        assert list(known) == [new(b"one").fingerprint.sha256]
        assert missing_documents(connection, [*known.values(), 10**9]) == [10**9]


def test_a_content_can_be_stored_under_the_id_and_with_the_time_that_it_had(databases: Databases) -> None:
    with databases.knowledge.begin() as connection:
        copy_documents(
            connection, [new(b"one", number=10**12), new(b"two", number=7)], with_ids=True, with_times=True
        )
        known = find_documents(connection, [new(b"one").fingerprint.sha256, new(b"two").fingerprint.sha256])
        assert known == {new(b"one").fingerprint.sha256: 10**12, new(b"two").fingerprint.sha256: 7}
        same_time = "SELECT DISTINCT created_at = '2000-01-01 00:00:01Z' FROM docs"
        assert connection.execute(text(same_time)).all() == [(True,)]
    with pytest.raises(DocumentArrived), databases.knowledge.begin() as connection:
        copy_documents(connection, [new(b"three", number=7)], with_ids=True, with_times=True)


def test_ids_come_from_the_sequence_unless_the_role_may_not_use_it(databases: Databases) -> None:
    with databases.knowledge.begin() as connection:
        first, second = take_ids(connection, 2)
        copy_documents(connection, [replace(new(b"one"), id=first)], with_ids=True)
        copy_documents(connection, [new(b"two")])
        known = find_documents(connection, [new(b"one").fingerprint.sha256, new(b"two").fingerprint.sha256])
        assert sorted(known.values()) == [first, second + 1]
        connection.execute(text("CREATE ROLE without_sequence"))
        connection.execute(text("GRANT SELECT, INSERT ON docs TO without_sequence"))
        connection.execute(text("SET LOCAL ROLE without_sequence"))
        assert take_ids(connection, 2) == []
        connection.rollback()
