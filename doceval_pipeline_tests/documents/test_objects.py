"""Folders on object storage: what is listed, with which reasons, and how objects are read."""

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from doceval_pipeline.documents import stores
from doceval_pipeline.documents.objects import encoded_object, read_object, walk_objects
from doceval_pipeline.documents.reading import (
    CHANGED,
    OUTSIDE,
    SMALL_DOCUMENT,
    DocumentRejected,
    decode,
)
from doceval_pipeline.documents.skipped_folders import COUNTED_BY_ITSELF
from doceval_pipeline.documents.walk import (
    EMPTY,
    EXCLUDED,
    FOLDER_MARKER,
    HIDDEN,
    NOT_INCLUDED,
    TEMPORARY,
    TOO_LARGE,
    UNREADABLE,
    UNREADABLE_NAME,
    VANISHED,
    Entry,
    Rules,
)
from doceval_pipeline.errors import StagingError
from doceval_pipeline.object_urls import parse_object_url
from doceval_pipeline_tests.documents import s3_server
from doceval_pipeline_tests.documents.s3_server import ACCESS_KEY, S3, SECRET_KEY, Answer
from doceval_pipeline_tests.outsiders import moto_server

LIMIT = 50 * 1024 * 1024
FOLDER = "s3://documents/in"
# Keys below the folder, and the reason for which each is left out; None for a usable one.
KEYS = {
    "a.txt": None,
    "sub/deep/er/b.txt": None,
    "with space.txt": None,
    " leading and trailing ": None,
    "plus+sign%20and%2Fpercent.txt": None,
    "question?hash#.txt": None,
    "prüfung.txt": None,
    "e\u0301.txt": None,
    "\U0001f600.txt": None,
    "back\\slash.txt": None,
    "quotes\"'<>&.txt": None,
    "star*[x]{y}|^`~:@$,;=!().txt": None,
    "...": HIDDEN,
    ".hidden": HIDDEN,
    ".folder/c.txt": HIDDEN,
    "~$contract.docx": TEMPORARY,
    "__MACOSX/d.txt": TEMPORARY,
    "left out/e.log": EXCLUDED,
    "nothing.txt": EMPTY,
    "marker/": FOLDER_MARKER,
    "marker-and-file": None,
    "marker-and-file/": FOLDER_MARKER,
    "not a marker/": UNREADABLE_NAME,
    "a//b.txt": UNREADABLE_NAME,
    "/c.txt": UNREADABLE_NAME,
    "x/../d.txt": UNREADABLE_NAME,
    "x/./e.txt": UNREADABLE_NAME,
    "..": UNREADABLE_NAME,
    "control\x01.txt": UNREADABLE_NAME,
    "tab\t.txt": UNREADABLE_NAME,
    "delete\x7f.txt": UNREADABLE_NAME,
    "double marker//": UNREADABLE_NAME,
}
CONTENTS = {"nothing.txt": b"", "marker/": b"", "marker-and-file/": b"", "double marker//": b""}
# What the routes of moto's web framework take for other paths.
NOT_IN_MOTO = {"/c.txt"}


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with moto."""
    return moto_server.install(tmp_path_factory.mktemp("moto"))


@pytest.fixture(params=["small server", pytest.param("moto", marks=pytest.mark.outsiders)])
def s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An S3 server with an empty bucket `documents`, which the environment names."""
    is_moto = request.param == "moto"
    with moto_server.running(request.getfixturevalue("moto")) if is_moto else s3_server.running() as server:
        yield server.prepared(monkeypatch)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A server whose failures a test chooses; retries wait for a moment only."""
    monkeypatch.setattr(stores, "FIRST_WAIT", 0.01)
    with s3_server.running() as server:
        yield server.prepared(monkeypatch)


def listed(folder: str = FOLDER, rules: Rules | None = None, *elsewhere: str) -> list[Entry]:
    others = [parse_object_url(url) for url in elsewhere]
    return list(walk_objects(parse_object_url(folder), rules or Rules(), others))


def reason_of_rejection(folder: str, path: bytes, etag: str | None = None, limit: int = LIMIT) -> str:
    with pytest.raises(DocumentRejected) as rejected:
        read_object(folder, path, limit, etag)
    return rejected.value.reason


def test_every_key_is_listed_by_its_exact_name_with_its_reason_and_usable_ones_are_read(s3: S3) -> None:
    keys = {key: reason for key, reason in KEYS.items() if s3.buckets or key not in NOT_IN_MOTO}
    for key in keys:
        s3.put("documents", f"in/{key}", CONTENTS.get(key, f"content of {key}".encode()))
    s3.put("documents", "in/", b"")
    s3.put("documents", "into/other.txt", b"another folder")
    entries = listed(rules=Rules(exclude=("*.log",)))
    assert {entry.path.decode(): entry.reason for entry in entries} == keys
    assert [entry.path for entry in entries] == sorted(key.encode() for key in keys)
    for entry in entries:
        if entry.reason is None:
            read = read_object(FOLDER, entry.path, LIMIT, entry.etag)
            assert read.content == f"content of {entry.path.decode()}".encode()
            assert read.fingerprint.sha256 == hashlib.sha256(read.content).hexdigest()
            assert read.fingerprint.size == entry.size == len(read.content)
            assert read.etag == entry.etag


def test_a_whole_bucket_is_a_folder(s3: S3) -> None:
    for key in ("a.txt", "sub/b.txt"):
        s3.put("documents", key, b"x")
    assert [entry.path for entry in listed("s3://documents")] == [b"a.txt", b"sub/b.txt"]
    assert read_object("s3://documents", b"sub/b.txt", LIMIT).content == b"x"


def test_patterns_and_the_largest_size_decide_as_for_files(s3: S3) -> None:
    for key, content in {"a.pdf": b"x", "b.txt": b"x", "big.pdf": b"x" * 11, "sub/c.pdf": b"x"}.items():
        s3.put("documents", f"in/{key}", content)
    found = {e.path: e.reason for e in listed(rules=Rules(include=("*.pdf",), max_bytes=10))}
    assert found == {b"a.pdf": None, b"b.txt": NOT_INCLUDED, b"big.pdf": TOO_LARGE, b"sub/c.pdf": None}


def test_a_folder_inside_another_one_is_counted_by_itself(s3: S3) -> None:
    for key in ("a.txt", "sub/b.txt", "sub/c.txt", "sub-other/d.txt"):
        s3.put("documents", f"in/{key}", b"x")
    found = {e.path: e.reason for e in listed(FOLDER, None, FOLDER, f"{FOLDER}/sub", "s3://other/in/a")}
    assert found == {b"a.txt": None, b"sub": COUNTED_BY_ITSELF, b"sub-other/d.txt": None}


def test_a_listing_of_several_pages_is_complete_and_in_order(s3: S3) -> None:
    keys = [f"{number:04}//.txt" if number % 300 == 7 else f"{number:04}.txt" for number in range(2_001)]
    for key in keys:
        s3.put("documents", f"in/{key}", b"x")
    entries = listed()
    assert [entry.path.decode() for entry in entries] == keys
    assert sum(entry.reason == UNREADABLE_NAME for entry in entries) == 7


def test_a_listing_ends_when_it_is_told_to(s3: S3) -> None:
    for number in range(5):
        s3.put("documents", f"in/{number}", b"x")
    answers = iter([False, False, True])
    assert len(list(walk_objects(parse_object_url(FOLDER), Rules(), (), lambda: next(answers)))) == 2


def test_an_object_is_read_only_in_the_version_that_was_listed(s3: S3) -> None:
    s3.put("documents", "in/a.txt", b"old")
    (entry,) = listed()
    s3.put("documents", "in/a.txt", b"new")
    assert reason_of_rejection(FOLDER, b"a.txt", entry.etag) == CHANGED
    assert read_object(FOLDER, b"a.txt", LIMIT).content == b"new"
    s3.delete("documents", "in/a.txt")
    assert reason_of_rejection(FOLDER, b"a.txt", entry.etag) == VANISHED


def test_a_large_object_is_read_twice_in_the_same_version(s3: S3) -> None:
    content = os.urandom(SMALL_DOCUMENT + 1)
    s3.put("documents", "in/large.bin", content)
    read = read_object(FOLDER, b"large.bin", LIMIT)
    assert read.content is None
    assert read.fingerprint.sha256 == hashlib.sha256(content).hexdigest()
    assert decode(b"".join(encoded_object(FOLDER, b"large.bin", read))) == content
    s3.put("documents", "in/large.bin", content[::-1])
    with pytest.raises(DocumentRejected, match=CHANGED):
        list(encoded_object(FOLDER, b"large.bin", read))


def test_the_type_of_a_large_object_is_found_from_parts_of_it(s3: S3) -> None:
    s3.put("documents", "in/large.pdf", b"%PDF-1.7\n" + bytes(SMALL_DOCUMENT))
    found = read_object(FOLDER, b"large.pdf", LIMIT).fingerprint
    assert (found.content_type, found.doc_type) == ("application/pdf", "pdf")


def test_a_size_that_is_not_allowed_is_rejected_without_reading(s3: S3) -> None:
    s3.put("documents", "in/a.txt", b"12345")
    s3.put("documents", "in/b.txt", b"")
    assert reason_of_rejection(FOLDER, b"a.txt", limit=4) == TOO_LARGE
    assert reason_of_rejection(FOLDER, b"b.txt") == EMPTY


@pytest.mark.parametrize("path", [b"../other/a.txt", b"a//b", b"/a", b"", b"a\x01", b"a/"])
def test_a_path_that_leaves_the_folder_is_not_requested(faulty: S3, path: bytes) -> None:
    assert reason_of_rejection(FOLDER, path) == OUTSIDE
    assert not faulty.gets()


def test_a_missing_bucket_is_one_line(s3: S3) -> None:
    with pytest.raises(StagingError) as failure:
        listed("s3://missing-bucket/in")
    assert str(failure.value) == (
        "folder s3://missing-bucket/in cannot be read, its bucket does not exist (404 NoSuchBucket): create "
        "it or fix the URL"
    )
    with pytest.raises(StagingError, match="its bucket does not exist"):
        read_object("s3://missing-bucket/in", b"a.txt", LIMIT)


FAULTS = {
    "access is denied (403 AccessDenied)": Answer(403, "AccessDenied"),
    "the credentials have expired (400 ExpiredToken): renew them": Answer(400, "ExpiredToken"),
    "the credentials are not accepted (403 InvalidAccessKeyId)": Answer(403, "InvalidAccessKeyId"),
    "the credentials are not accepted (403 SignatureDoesNotMatch)": Answer(403, "SignatureDoesNotMatch"),
    "its bucket is in another region (": Answer(301, "PermanentRedirect"),
    "the store answers 503 SlowDown: try again later": Answer(503, "SlowDown"),
    "the endpoint does not answer: check AWS_ENDPOINT": Answer(0),
}


@pytest.mark.parametrize(("line", "answer"), FAULTS.items(), ids=list(FAULTS))
def test_a_failure_of_the_store_is_one_line_without_body_or_key(
    faulty: S3, line: str, answer: Answer
) -> None:
    faulty.put("documents", "in/a.txt", b"x")
    (entry,) = listed()
    faulty.fails = lambda method, path: answer
    actions = [listed, lambda: read_object(FOLDER, b"a.txt", LIMIT, entry.etag)]
    # A single object that may not be read is left out, as a file without permission is.
    for action in actions[:1] if answer.code == "AccessDenied" else actions:
        with pytest.raises(StagingError) as failure:
            action()
        message = str(failure.value)
        assert line in message
        assert "\n" not in message
        assert not any(word in message for word in ("<", "127.0.0.1", ACCESS_KEY, SECRET_KEY, "X-Amz"))
        assert failure.value.__cause__ is None
        assert failure.value.__suppress_context__


def test_an_object_that_may_not_be_read_is_left_out(faulty: S3) -> None:
    faulty.put("documents", "in/a.txt", b"x")
    faulty.fails = lambda method, path: Answer(403, "AccessDenied") if method == "GET" else None
    assert reason_of_rejection(FOLDER, b"a.txt") == UNREADABLE


def test_failures_that_pass_are_tried_again(faulty: S3) -> None:
    faulty.put("documents", "in/a.txt", b"x")
    answers = iter([Answer(503, "SlowDown", retry_after=0), Answer(0), Answer(429, "TooManyRequests"), None])
    faulty.fails = lambda method, path: next(answers)
    assert [entry.path for entry in listed()] == [b"a.txt"]
    answers = iter([Answer(503, "SlowDown"), Answer(0), Answer(500, "InternalError"), None])
    assert read_object(FOLDER, b"a.txt", LIMIT).content == b"x"


def test_a_listing_waits_for_as_long_as_the_store_asks(faulty: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(stores.time, "sleep", waited.append)
    answers = iter([Answer(503, "SlowDown", retry_after=7), Answer(503, "SlowDown", retry_after=9_999), None])
    faulty.fails = lambda method, path: next(answers)
    assert listed() == []
    assert waited == [7.0, stores.LONGEST_RETRY_AFTER]


def test_a_listing_that_is_over_does_not_wait_for_a_store_that_fails(faulty: S3) -> None:
    faulty.fails = lambda method, path: Answer(503, "SlowDown")
    with pytest.raises(StagingError, match="the store answers 503"):
        list(walk_objects(parse_object_url(FOLDER), Rules(), (), lambda: True))
    assert len(faulty.requests) == 1


def test_http_is_refused_unless_it_is_allowed(faulty: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    stores.bucket_of.cache_clear()
    for action in (listed, lambda: read_object(FOLDER, b"a.txt", LIMIT)):
        with pytest.raises(StagingError, match="the endpoint is not https: use https, or set AWS_ALLOW_HTTP"):
            action()
    assert not faulty.requests


@pytest.mark.parametrize("body", [b"", b"<html>", b"<html/>", b"<ListBucketResult><Contents/>", b"\xff"])
def test_an_answer_that_is_no_listing_is_one_line(
    faulty: S3, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(s3_server._Handler, "_listing", lambda *_: body)
    with pytest.raises(StagingError, match="the answer is not that of S3: check AWS_ENDPOINT"):
        listed()


def test_without_signatures_the_library_lists_and_names_the_key_that_it_cannot_read(
    faulty: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    for key in ("a.txt", "b", "b/", "sub/c.txt"):
        faulty.put("documents", f"in/{key}", b"" if key == "b/" else b"x")
    found = {entry.path: entry.reason for entry in listed()}
    assert found == {b"a.txt": None, b"b": None, b"b/": FOLDER_MARKER, b"sub/c.txt": None}
    faulty.put("documents", "in/odd//d.txt", b"x")
    with pytest.raises(StagingError, match=r"has a key that the library cannot read \(in/odd//d.txt\)"):
        listed()


def test_an_installation_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    stores.bucket_of.cache_clear()
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(StagingError, match=r"install doceval-pipeline\[cloud\]"):
        listed()
