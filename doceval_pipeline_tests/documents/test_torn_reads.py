"""Files that are written while they are read: only complete versions are returned."""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from doceval_pipeline.documents.reading import (
    CHANGED,
    DocumentRejected,
    decode,
    encoded_chunks,
)
from doceval_pipeline.documents.walk import EMPTY, NOT_REGULAR, SYMLINK, TOO_LARGE, VANISHED, Rules, walk
from doceval_pipeline_tests.documents.reading_alone import read_alone
from doceval_pipeline_tests.documents.rewriting import is_whole, rewritten

LIMIT = 50 * 1024 * 1024
OLD = (1_000_000_000, 1_000_000_000)


def read(path: Path, twice: bool) -> str:
    """What became of one try: a whole version, a torn one, or the reason why there is none."""
    name = os.fsencode(path.name)
    try:
        found = read_alone(path.parent, name, LIMIT)
        # As of a document that is too large to be kept: it is read again while it is stored.
        expected = replace(found, content=None) if twice else found
        stored = decode(b"".join(encoded_chunks(path.parent, name, expected)))
    except DocumentRejected as rejection:
        return rejection.reason
    return "whole" if is_whole(stored) else "torn"


def read_naively(path: Path) -> str:
    try:
        return "whole" if is_whole(path.read_bytes()) else "torn"
    except FileNotFoundError:
        return VANISHED


@pytest.mark.slow
def test_of_a_thousand_reads_of_files_that_are_rewritten_none_is_torn(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.bin" for number in range(40)]
    with rewritten(files, rest=2.5), ThreadPoolExecutor(100) as readers:
        numbers = range(1000)
        control = Counter(readers.map(lambda n: read_naively(files[n % 40]), numbers))
        tries = Counter(readers.map(lambda n: read(files[n % 40], twice=n % 2 == 0), numbers))
        control += Counter(readers.map(lambda n: read_naively(files[n % 40]), numbers))
    # The writers are at work while files are read, which shows in reads that take no care.
    assert control["torn"] > 20, control
    assert tries["torn"] == 0, tries
    assert tries["whole"] > 20, tries
    assert tries[CHANGED] > 5, tries
    assert set(tries) <= {"whole", CHANGED, VANISHED, EMPTY}, tries


@contextmanager
def at_work(*steps: object) -> Iterator[None]:
    """Does something over and over, and once before it begins, beside what the test does."""
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        while not done.is_set():
            for step in steps:
                step()  # type: ignore[operator] # functions without parameters
            begun.set()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        assert begun.wait(60)
        yield
    finally:
        done.set()
        worker.join()


def old(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    os.utime(path, OLD)
    return path


def test_no_link_that_takes_a_files_place_is_ever_followed(tmp_path: Path) -> None:
    """A file and its folder are swapped for links to the outside, as fast as can be."""
    secret = old(tmp_path / "outside.txt", b"SECRET")
    (tmp_path / "outside").mkdir()
    old(tmp_path / "outside" / "file", b"SECRET")
    top = tmp_path / "in"
    (top / "folder").mkdir(parents=True)
    for path in (top / "file", tmp_path / "good", top / "folder" / "file"):
        old(path, b"good")
    link, folder_link = tmp_path / "link", tmp_path / "folder-link"

    def swap_file() -> None:
        link.symlink_to(secret)
        link.replace(top / "file")
        os.link(tmp_path / "good", link)
        link.replace(top / "file")

    def swap_folder() -> None:
        (top / "folder").rename(tmp_path / "aside")
        folder_link.symlink_to(tmp_path / "outside")
        folder_link.rename(top / "folder")
        (top / "folder").unlink()
        (tmp_path / "aside").rename(top / "folder")

    seen: Counter[str] = Counter()
    with at_work(swap_file, swap_folder):
        for _ in range(1000):
            seen.update(entry.path.decode() for entry in walk(top, Rules()))
            for path in (b"file", b"folder/file"):
                try:
                    seen.update([repr(read_alone(top, path, LIMIT).content)])
                except DocumentRejected as rejection:
                    seen.update([rejection.reason])
    assert set(seen) <= {"file", "folder", "folder/file", "b'good'", SYMLINK, VANISHED, CHANGED}
    assert min(seen["b'good'"], seen[SYMLINK] + seen[VANISHED]) > 20, seen


def test_a_file_that_grows_without_end_is_given_up_soon(tmp_path: Path) -> None:
    path = old(tmp_path / "log", b"x")
    with path.open("ab", buffering=0) as log, at_work(lambda: log.write(b"x" * 1000)):
        began = time.monotonic()
        with pytest.raises(DocumentRejected, match=f"{CHANGED}|{TOO_LARGE}"):
            read_alone(tmp_path, b"log", 20_000_000)
    assert time.monotonic() - began < 15


def test_a_file_of_a_terabyte_of_nothing_costs_no_time(tmp_path: Path) -> None:
    path = old(tmp_path / "sparse", b"")
    os.truncate(path, 10**12)
    began = time.monotonic()
    (entry,) = walk(tmp_path, Rules())
    assert (entry.reason, entry.size) == (TOO_LARGE, 10**12)
    with pytest.raises(DocumentRejected, match=TOO_LARGE):
        read_alone(tmp_path, b"sparse", LIMIT)
    assert time.monotonic() - began < 1


def test_files_dated_in_the_future_are_not_waited_for_one_by_one(tmp_path: Path) -> None:
    for number in range(20):
        os.utime(old(tmp_path / str(number), b"x"), (4_000_000_000, 4_000_000_000))
    read_alone(tmp_path, b"19", LIMIT)
    began = time.monotonic()
    assert all(
        read_alone(tmp_path, str(number).encode(), LIMIT).fingerprint.size == 1 for number in range(20)
    )
    assert time.monotonic() - began < 5


def test_a_file_that_was_written_just_now_and_dated_in_the_future_is_waited_for(tmp_path: Path) -> None:
    os.utime(old(tmp_path / "new", b"x"), (4_000_000_000, 4_000_000_000))
    began = time.monotonic()
    read_alone(tmp_path, b"new", LIMIT)
    assert time.monotonic() - began > 0.9


@pytest.mark.parametrize("folder", [path for path in ("/dev", "/proc/self") if os.path.isdir(path)])
def test_folders_that_are_no_files_at_all_are_walked_to_their_end(folder: str) -> None:
    """Devices, sockets, links into everything, and files that would block whoever reads them."""
    began = time.monotonic()
    entries = list(walk(Path(folder), Rules()))
    assert {entry.reason for entry in entries} & {SYMLINK, NOT_REGULAR}
    assert time.monotonic() - began < 30


def test_a_hard_link_is_the_file_and_stored_once(tmp_path: Path) -> None:
    os.link(old(tmp_path / "a", b"content"), tmp_path / "b")
    assert [entry.state for entry in walk(tmp_path, Rules())] == ["ASSIGNED"] * 2
    assert read_alone(tmp_path, b"a", LIMIT) == read_alone(tmp_path, b"b", LIMIT)


def test_no_descriptor_stays_open_after_files_that_could_not_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    old(tmp_path / "empty", b"")
    before = len(os.listdir("/dev/fd"))
    for name in (b"fifo", b"link", b"empty", b"gone", b"fifo/below"):
        with pytest.raises(DocumentRejected):
            read_alone(tmp_path, name, LIMIT)
    assert len(os.listdir("/dev/fd")) == before
