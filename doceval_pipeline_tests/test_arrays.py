"""Lists reach PostgreSQL as the text of an array, whatever their elements hold."""

from sqlalchemy import text

from doceval_pipeline import arrays
from doceval_pipeline.batches.databases import Databases

TEXTS = [
    "",
    "NULL",
    "null",
    None,
    "a,b",
    '"',
    "\\",
    "\\x41",
    "{}",
    "'",
    " a ",
    "%s :name",
    "ü\n\t",
    "\U0001f600",
]


def test_every_element_arrives_as_it_is(databases: Databases) -> None:
    values = [b"", b"\0\xff", b"a,b\\"]
    with databases.doc_eval.connect() as connection:
        row = connection.execute(
            text("SELECT CAST(:texts AS text[]), CAST(:bytes AS bytea[]), CAST(:numbers AS bigint[])"),
            {
                "texts": arrays.of_texts(TEXTS),
                "bytes": arrays.of_bytes(values),
                "numbers": arrays.of_numbers([1, -2, None, 2**62]),
            },
        ).one()
    assert row[0] == TEXTS
    assert [bytes(value) for value in row[1]] == values
    assert row[2] == [1, -2, None, 2**62]


def test_an_empty_list_is_an_empty_array() -> None:
    assert arrays.of_numbers([]) == arrays.of_texts([]) == arrays.of_bytes([]) == "{}"
