"""The bytes on disk are the bytes that are stored: every length, every link, and files that change."""

import hashlib
import os
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doceval_pipeline.documents.content_type import content_type
from doceval_pipeline.documents.reading import (
    OUTSIDE,
    PIECE,
    SMALL_DOCUMENT,
    DocumentRejected,
    LastFolder,
    decode,
    doc_type,
    encode,
    encoded_chunks,
    hash_document,
    read_document,
)
from doceval_pipeline.documents.source import Source
from doceval_pipeline.documents.walk import SYMLINK, VANISHED
from doceval_pipeline_tests.documents.reading_alone import read_alone

LIMIT = 50 * 1024 * 1024


def base64_length(size: int) -> int:
    """The length in bytes of the base64 of `size` bytes."""
    return 4 * ((size + 2) // 3)


def write(folder: Path, content: bytes, name: str = "file.bin") -> bytes:
    (folder / name).write_bytes(content)
    os.utime(folder / name, (1_000_000_000, 1_000_000_000))
    return os.fsencode(name)


@pytest.mark.parametrize(
    "size", [1, 2, 3, 1000, SMALL_DOCUMENT, SMALL_DOCUMENT + 1, 2 * PIECE - 1, 2 * PIECE + 2]
)
def test_fingerprint_and_base64_are_of_the_bytes_on_disk(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    path = write(tmp_path, content)
    found = read_alone(tmp_path, path, LIMIT)
    assert (found.fingerprint.size, found.fingerprint.sha256) == (size, hashlib.sha256(content).hexdigest())
    assert (found.content is None) == (size > SMALL_DOCUMENT)
    encoded = b"".join(encoded_chunks(tmp_path, path, found))
    assert encoded == encode(content)
    assert len(encoded) == base64_length(size)
    assert decode(encoded) == content


@pytest.mark.parametrize(
    "path", ["../secret", "in/../../secret", "/{}/secret", "in//f", "./in/f", "", ".", "in/."]
)
def test_no_path_leads_out_of_its_folder(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "folder"
    (folder / "in").mkdir(parents=True)
    write(tmp_path, b"secret", "secret")
    found = read_alone(folder, write(folder, b"fine", "in/f"), LIMIT)
    led = path.format(tmp_path).encode()
    with pytest.raises(DocumentRejected) as caught:
        read_alone(folder, led, LIMIT)
    assert caught.value.reason == OUTSIDE
    with pytest.raises(DocumentRejected):
        list(encoded_chunks(folder, led, replace(found, content=None)))
    with pytest.raises(DocumentRejected):
        hash_document(folder, led, LIMIT)


@given(st.binary(max_size=200))
def test_base64_round_trips_at_every_length(content: bytes) -> None:
    assert decode(encode(content)) == content
    assert len(encode(content)) == base64_length(len(content))


@pytest.mark.parametrize("text", ["QQ", "QQ=", "QR==", "QQ==\n", "Q Q=", "QQ-_", "=QQ=", "QUI=QUI="])
def test_what_no_encoder_writes_is_not_decoded(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        decode(text)


def reason(folder: Path, path: bytes, limit: int = LIMIT) -> str:
    with pytest.raises(DocumentRejected) as caught:
        read_alone(folder, path, limit)
    return caught.value.reason


def test_changes_of_a_file_since_the_walk_are_reported(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(write(tmp_path, b"x", "target").decode())
    (tmp_path / "linked").symlink_to(tmp_path / "sub")
    write(tmp_path / "sub", b"x", "f")
    assert reason(tmp_path, b"gone") == "vanished"
    assert reason(tmp_path, b"target/f") == "vanished"
    assert reason(tmp_path, b"fifo") == "not a regular file"
    assert reason(tmp_path, b"sub") == "not a regular file"
    assert reason(tmp_path, b"link") == "symlink"
    assert reason(tmp_path, b"linked/f") in ("symlink", "vanished")
    assert reason(tmp_path, write(tmp_path, b"", "empty")) == "empty"
    assert reason(tmp_path, write(tmp_path, b"12345", "grown"), 4) == "too large"


def test_a_large_file_that_changes_between_the_two_readings_ends_in_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, b"a" * (2 * PIECE))
    # As of a document that is too large to be kept.
    found = replace(read_alone(tmp_path, path, LIMIT), content=None)
    for changed in (b"b" * (2 * PIECE), b"a" * (2 * PIECE - 1), b"a" * (2 * PIECE + 1)):
        write(tmp_path, changed)
        with pytest.raises(DocumentRejected, match="changed while being read"):
            list(encoded_chunks(tmp_path, path, found))


def test_a_file_that_is_being_rewritten_is_read_whole_once_its_writer_is_done(tmp_path: Path) -> None:
    size = 900_000
    path = write(tmp_path, b"A" * size)
    begun, stop = threading.Event(), threading.Event()

    def rewrite() -> None:
        descriptor = os.open(tmp_path / "file.bin", os.O_WRONLY)
        while not stop.is_set():
            for letter in (b"B", b"A"):
                os.pwrite(descriptor, letter * size, 0)
            begun.set()
        os.close(descriptor)

    writer = threading.Thread(target=rewrite)
    writer.start()
    begun.wait()
    assert reason(tmp_path, path) == "changed while being read"
    threading.Timer(0.5, stop.set).start()
    found = read_alone(tmp_path, path, LIMIT)
    writer.join()
    assert found.fingerprint.sha256 == hashlib.sha256(b"A" * size).hexdigest()


def test_memory_does_not_grow_with_the_document(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        for _ in range(40):
            file.write(os.urandom(1024 * 1024))
    tracemalloc.start()
    found = read_alone(tmp_path, b"big", LIMIT)
    total = sum(len(piece) for piece in encoded_chunks(tmp_path, b"big", found))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == base64_length(40 * 1024 * 1024)
    assert peak < 8 * 1024 * 1024


@settings(max_examples=50)
@given(st.binary(min_size=1, max_size=300))
def test_every_content_has_a_content_type(content: bytes) -> None:
    assert "/" in content_type(Source.of(content))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n", "application/pdf"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
        (
            b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00",
            "image/png",
        ),
        (b"plain words\n", "text/plain"),
        (b"", "application/octet-stream"),
    ],
)
def test_the_content_type_is_read_from_the_bytes(tmp_path: Path, head: bytes, expected: str) -> None:
    assert content_type(Source.of(head)) == expected
    if head:
        assert (
            read_alone(tmp_path, write(tmp_path, head, "misleading.mp3"), LIMIT).fingerprint.content_type
            == expected
        )


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"a/b.PDF", "pdf"),
        (b"a.b/c", ""),
        (b"x.tar.gz", "gz"),
        (b".bashrc", ""),
        (b"a.\xff", ""),
        (b"end.", ""),
    ],
)
def test_the_doc_type_is_the_extension_in_small_letters(path: bytes, expected: str) -> None:
    assert doc_type(path) == expected


def test_reading_types_leaves_no_trace_in_the_environment() -> None:
    before = dict(os.environ)
    content_type(Source.of(b"%!PS"))
    assert dict(os.environ) == before


@pytest.mark.parametrize("replacement", ["link", "folder", "nothing"])
def test_a_folder_that_is_replaced_while_it_is_kept_open_leads_to_no_other_one(
    tmp_path: Path, replacement: str
) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    (folder / "in").mkdir(parents=True)
    first, second, third = (write(folder, name.encode(), f"in/{name}") for name in ("one", "two", "three"))
    elsewhere.mkdir()
    for name in ("two", "three", "four"):
        write(elsewhere, b"other", name)
    with LastFolder() as last:
        read_document(folder, first, LIMIT, last)
        (folder / "in").rename(tmp_path / "moved")
        if replacement == "link":
            (folder / "in").symlink_to(elsewhere)
        elif replacement == "folder":
            elsewhere.rename(folder / "in")
        # The folder that was opened still has this file.
        assert read_document(folder, second, LIMIT, last).content == b"two"
        (tmp_path / "moved" / "three").unlink()
        if replacement == "folder":
            # As without a folder that is kept.
            assert read_document(folder, third, LIMIT, last).content == b"other"
        else:
            expected = SYMLINK if replacement == "link" else VANISHED
            with pytest.raises(DocumentRejected) as caught:
                read_document(folder, third, LIMIT, last)
            assert caught.value.reason in (expected, VANISHED)


def test_documents_of_one_folder_share_its_descriptor_and_leave_none_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    paths = [write(tmp_path, b"content", f"{folder}/{name}") for folder in "ab" for name in range(20)]
    opened = []
    real = os.open

    def counted(*args: Any, **options: Any) -> int:
        opened.append(args[0])
        return real(*args, **options)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "open", counted)
    with LastFolder() as last:
        for path in paths:
            read_document(tmp_path, path, LIMIT, last)
    monkeypatch.undo()
    assert len(opened) == len(paths) + 2 * 2
    assert len(os.listdir("/proc/self/fd")) == before


@given(st.binary(max_size=12))
def test_the_extension_is_that_of_the_operating_system(name: bytes) -> None:
    extension = os.path.splitext(os.path.basename(name))[1]
    try:
        expected = extension.decode().removeprefix(".").lower()
    except UnicodeDecodeError:
        expected = ""
    assert doc_type(name) == expected
