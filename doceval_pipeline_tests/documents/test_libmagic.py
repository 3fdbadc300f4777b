"""The filter in front of libmagic gives libmagic's own answers."""

import gc
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as some

from doceval_pipeline.documents import libmagic
from doceval_pipeline.documents.libmagic import recognise, recognise_binary, recognise_filtered

HEAD = 4 * 1024


def planted() -> Iterator[tuple[int, bytes]]:
    """The offset and the value of each of libmagic's tests, numbers in both byte orders."""
    database = Path(libmagic._load()[1]).read_bytes()
    for begin in range(libmagic._TEST.size, len(database), libmagic._TEST.size):
        test = libmagic._Test._make(libmagic._TEST.unpack_from(database, begin))
        if test.level == 0 and 0 <= test.offset < HEAD:
            whole = database[begin + 32 : begin + 32 + (test.length or 8)]
            yield test.offset, whole
            for size, order in {libmagic._NUMBERS.get(test.kind, (0, "little"))} - {(0, "little")}:
                yield test.offset, whole[:size] if order == "little" else whole[:size][::-1]


PLANTED = list(planted())


def with_values(background: bytes, *values: tuple[int, bytes]) -> bytes:
    document = bytearray(background)
    for offset, value in values:
        document[offset : offset + len(value)] = value
    return bytes(document[:HEAD])


@pytest.mark.parametrize("background", [bytes(HEAD), random.Random(19).randbytes(HEAD)], ids=["nul", "noise"])
def test_every_value_that_libmagic_looks_for_is_recognised_as_without_the_filter(background: bytes) -> None:
    for value in PLANTED:
        document = with_values(background, value)
        assert recognise_filtered(document) == recognise(document), value


@examples(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    some.randoms(use_true_random=False),
    some.lists(some.sampled_from(PLANTED), max_size=3),
    some.sampled_from([0, 1, 60, HEAD]),
    some.sampled_from([bytes(range(256)), bytes(range(9, 127)), bytes(128) + bytes(range(32, 127))]),
)
def test_bytes_are_recognised_as_without_the_filter(
    chance: random.Random, values: list[tuple[int, bytes]], size: int, alphabet: bytes
) -> None:
    document = with_values(bytes(chance.choices(alphabet, k=size)), *values)
    assert recognise_filtered(document) == recognise(document)


def test_a_filter_is_built_only_after_some_binary_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libmagic._handles(), "asked", 0)
    monkeypatch.setattr(libmagic, "recognise_filtered", lambda _: "filtered")
    answers = [recognise_binary(bytes(HEAD)) for _ in range(libmagic.FEW + 1)]
    assert answers.index("filtered") == libmagic.FEW


def test_a_database_of_another_layout_is_used_without_a_filter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "magic.mgc"
    other.write_bytes(libmagic._HEADER.pack(libmagic._SIGNATURE, libmagic._VERSION + 1, 3, 0))
    monkeypatch.setattr(libmagic, "_load", lambda: (None, str(other)))
    assert libmagic._filter.__wrapped__() is None


def test_a_handle_keeps_the_database_that_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every thread builds filters of its own, as those that begin at the same time do.
    monkeypatch.setattr(libmagic, "_filter", libmagic._filter.__wrapped__)
    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            documents = [random.Random(n).randbytes(HEAD) for n in range(40)]
            assert list(pool.map(recognise_filtered, documents)) == [recognise(one) for one in documents]
        gc.collect()
