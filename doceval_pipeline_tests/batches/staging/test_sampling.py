"""A sample of documents: repeatable, without copies, and fair to documents however many copies they have."""

from collections import Counter
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from doceval_pipeline.batches.staging import sampling
from doceval_pipeline.batches.staging.sampling import draw_sample
from doceval_pipeline.doc_eval.files import FoundFile
from doceval_pipeline.documents.reading import UNREADABLE, DocumentRejected
from doceval_pipeline.documents.walk import ASSIGNED

# Contents by path; None cannot be read. The size of a content is its length.
Folder = dict[bytes, str | None]

contents = st.sampled_from(["a", "b", "cc", "dd", "eee", None])
folders = st.dictionaries(st.binary(min_size=1, max_size=3), contents, max_size=12)


def files_of(folder: Folder, folder_id: int = 1) -> list[FoundFile]:
    return [
        FoundFile(folder_id, path, path.decode(errors="replace"), ASSIGNED, None, len(content or "x"))
        for path, content in folder.items()
    ]


def reader(folder: Folder, reads: Counter[bytes] | None = None) -> Callable[[FoundFile], str]:
    def read(file: FoundFile) -> str:
        if reads is not None:
            reads[file.raw_path] += 1
        content = folder[file.raw_path]
        if content is None:
            raise DocumentRejected(UNREADABLE)
        return content

    return read


def drawn(folder: Folder, documents: int, seed: int) -> list[bytes]:
    return [file.raw_path for file in draw_sample(files_of(folder), documents, seed, reader(folder)).files]


@given(folder=folders, documents=st.integers(1, 14), seed=st.integers(0, 2**53))
@examples(deadline=None, derandomize=True, database=None)
def test_a_sample_has_distinct_documents_each_as_its_first_file(
    folder: Folder, documents: int, seed: int
) -> None:
    reads: Counter[bytes] = Counter()
    sample = draw_sample(files_of(folder), documents, seed, reader(folder, reads))
    paths = [file.raw_path for file in sample.files]
    first = {content: path for path, content in sorted(folder.items(), reverse=True) if content is not None}
    assert len(paths) == min(documents, len(first))
    assert set(paths) <= set(first.values())
    assert paths == sorted(paths)
    assert (sample.files_found, sample.are_copies_known) == (len(folder), True)
    assert max(reads.values(), default=1) == 1, "no file is read twice"


@given(folder=folders, seed=st.integers(0, 2**53), number=st.integers(1, 1_000))
@examples(deadline=None, derandomize=True, database=None)
def test_the_same_seed_and_files_give_the_same_sample_in_any_order_and_folder(
    folder: Folder, seed: int, number: int
) -> None:
    there = drawn(folder, 3, seed)
    elsewhere = draw_sample(files_of(folder, number)[::-1], 3, seed, reader(folder))
    assert [file.raw_path for file in elsewhere.files] == there


def test_every_document_is_as_likely_however_many_copies_it_has() -> None:
    folder: Folder = {b"often %d" % n: "a" for n in range(20)} | {b"once %s" % c.encode(): c for c in "bcde"}
    samples = 2_000
    counts = Counter(folder[path] for seed in range(samples) for path in drawn(folder, 2, seed))
    # Two of five documents: 800 each, with a standard deviation of 22.
    assert all(700 < counts[content] < 900 for content in "abcde"), counts


def test_a_larger_sample_has_the_documents_of_a_smaller_one() -> None:
    folder: Folder = {b"%d" % n: str(n) for n in range(50)}
    assert all(set(drawn(folder, 3, seed)) < set(drawn(folder, 9, seed)) for seed in range(20))


def test_only_files_of_the_sizes_that_are_drawn_are_read() -> None:
    folder: Folder = {b"%03d" % n: "x" * n for n in range(1, 500)}
    reads: Counter[bytes] = Counter()
    draw_sample(files_of(folder), 5, 1, reader(folder, reads))
    assert reads.total() == 5


def test_comparing_files_of_one_size_has_a_bound_and_the_sample_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampling, "MOST_COMPARED", 10)
    letters = "abcdefghijklmnopqrstuvwxyz"
    folder: Folder = {f"{a}{b}".encode(): f"{a}{b}" for a, b in product(letters, letters)}
    reads: Counter[bytes] = Counter()
    sample = draw_sample(files_of(folder), 5, 1, reader(folder, reads))
    assert (len(sample.files), sample.are_copies_known) == (5, False)
    assert reads.total() <= 15


def test_copies_beyond_the_bound_are_never_in_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MOST_COMPARED", 0)
    folder: Folder = {b"%d" % n: "ab"[n % 2] for n in range(40)}
    for seed in range(20):
        assert len({folder[path] for path in drawn(folder, 5, seed)}) == len(drawn(folder, 5, seed)) == 2
