"""Rows of a binary COPY: the server sends each in one message, whatever its size."""

from typing import Any

import pytest
from sqlalchemy import Connection

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.knowledge.binary_copy import Fields, copy_rows, number

ROW = b"\0\2" + b"\0\0\0\4\0\0\0\7" + b"\xff\xff\xff\xff"
HEADER = b"\0" * 19
TRAILER = b"\xff\xff"
LENGTHS = [1, 2, 8_191, 8_192, 65_536, 1_000_000, 50_000_000]


def numbers_and_lengths(fields: Fields) -> tuple[int, int | None, bytes]:
    row, content = fields
    return number(row), None if content is None else len(content), bytes(content or b"")[-1:]


@pytest.mark.parametrize("lengths", [[], [1], [0], LENGTHS, LENGTHS[::-1], [1] * 10_000])
def test_rows_of_any_length_arrive_whole(databases: Databases, lengths: list[int]) -> None:
    statement = """
        COPY (SELECT place, CASE WHEN length > 0 THEN repeat('a', length - 1) || 'z' END
              FROM unnest(CAST(%s AS int[])) WITH ORDINALITY AS rows(length, place) ORDER BY place)
        TO STDOUT (FORMAT binary)
    """
    with databases.knowledge.connect() as connection:
        rows = copy_rows(connection, statement, (lengths,), numbers_and_lengths)
    assert rows == [
        (place, length or None, b"z" if length else b"") for place, length in enumerate(lengths, 1)
    ]


@pytest.mark.parametrize(
    "messages",
    [
        [HEADER + ROW, ROW, TRAILER],
        [HEADER, ROW, ROW, TRAILER],
    ],
    ids=["header before the first row", "header alone"],
)
def test_the_header_is_in_the_first_message_with_or_without_a_row(messages: list[bytes]) -> None:
    class Cursor:
        def mogrify(self, statement: str, _: Any) -> str:
            return statement

        def copy_expert(self, _: str, file: Any) -> None:
            for message in messages:
                file.write(message)

        def close(self) -> None:
            pass

    class Connected:
        connection = type("Raw", (), {"cursor": lambda _: Cursor()})()

    connection: Connection = Connected()  # type: ignore[assignment]
    rows = copy_rows(connection, "", (), lambda fields: (number(fields[0]), fields[1]))
    assert rows == [(7, None), (7, None)]
