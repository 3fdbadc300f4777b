"""An archive reads back as it was written, or is refused in one line that says what is wrong."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from doceval_pipeline.archives.checking import CheckedArchive, check
from doceval_pipeline.archives.format import ATTEMPTS, BATCH, CONFIG, DOCS, FILES, MEMBERS, REPORT
from doceval_pipeline.archives.reading import open_archive
from doceval_pipeline.archives.writing import ArchiveWriter
from doceval_pipeline.errors import ArchiveError
from doceval_pipeline_tests.archives.small import (
    CONTENTS,
    WHEN,
    Members,
    change,
    edit_manifest,
    read_members,
    sha256,
    write_members,
    write_small,
)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "batch-000007-small.zip"
    write_small(path)
    return path


def checked(path: Path) -> CheckedArchive:
    with open_archive(path) as archive:
        return check(archive, lambda *_: None)


def refusal(path: Path) -> str:
    with pytest.raises(ArchiveError) as caught:
        checked(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(f"{path} ")


def test_what_was_written_is_read_back(small: Path) -> None:
    found = checked(small)
    assert (found.documents, found.attempts, found.files) == (2, 2, 3)
    assert (found.largest_document, found.largest_attempt) == (2, 32)
    with open_archive(small) as archive:
        assert b"".join(archive.pieces(REPORT)) == b"<p>report"
        assert [row["response_text"] for row in archive.rows(ATTEMPTS)] == ["ä\n"] * 2
        for content in CONTENTS:
            assert b"".join(archive.document(sha256(content), len(content))) == content
        assert archive.manifest.archived_at == WHEN.isoformat()
        assert archive.sha256() == sha256(small.read_bytes())


def test_the_name_of_the_file_comes_from_what_is_in_it_and_not_from_when_it_was_written(
    small: Path, tmp_path: Path
) -> None:
    digest = write_small(tmp_path / "again.zip").content_digest
    with open_archive(small) as archive:
        later = archive.manifest.model_copy(update={"archived_at": "2027", "doceval": "2.0"})
    assert later.content_digest == digest
    change(small, lambda members: members.update({REPORT: b"other"}))
    with open_archive(small) as archive:
        assert archive.manifest.content_digest != digest


def test_progress_tells_of_each_document(small: Path) -> None:
    told: list[tuple[int, int, int]] = []
    with open_archive(small) as archive:
        check(archive, lambda *numbers: told.append(numbers))
    assert told == [(0, 2, 0), (1, 2, 7), (2, 2, 10)]


def test_a_document_that_is_not_what_its_sha256_says_is_not_written(tmp_path: Path) -> None:
    wrong = pytest.raises(ArchiveError, match="does not match its sha256")
    with wrong, (tmp_path / "a.zip").open("wb") as file, ArchiveWriter(file, WHEN) as writer:
        writer.add_document(sha256(b"one"), 3, [b"two"])


@examples(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_truncated_archive_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.zip"
    write_small(path)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert re.match("is damaged|is not a doceval archive", refusal(path))


@examples(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_changed_byte_is_refused_or_changes_nothing_that_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / "a.zip"
    write_small(path)
    before = read_members(path)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        checked(path)
    except ArchiveError:
        return
    # Times and rights of members, for example, come back nowhere.
    with open_archive(path) as archive:
        assert {name: b"".join(archive.pieces(name)) for name in MEMBERS} == {
            name: before[name] for name in MEMBERS
        }


OTHER_MEMBERS = "its members differ from those of an archive in name, order or size"


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"deeper": value}
    return value


def row(members: Members, member: str, **changed: Any) -> None:
    """Change values of the first row of a member."""
    first, rest = members[member].split(b"\n", 1)
    members[member] = json.dumps(json.loads(first) | changed).encode() + b"\n" + rest


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m.pop(ATTEMPTS), OTHER_MEMBERS),
        (lambda m: m.update({"extra": b""}), OTHER_MEMBERS),
        (lambda m: m.update({ATTEMPTS: m.pop(ATTEMPTS)}), OTHER_MEMBERS),
        (lambda m: m.pop("documents/" + sha256(b"one")), "docs.jsonl does not match"),
        (lambda m: m.update({"documents/" + sha256(b"one"): b"two"}), "differs from what was written"),
        (lambda m: m.update({"documents/" + sha256(b"one"): b"one more"}), "differs from what was written"),
        (lambda m: m.update({ATTEMPTS: b"[]\n"}), "attempts.jsonl is invalid at its root"),
        (lambda m: m.update({ATTEMPTS: b"{\n"}), "attempts.jsonl contains invalid JSON"),
        (
            lambda m: m.update({ATTEMPTS: m[ATTEMPTS].rstrip()}),
            "contains an unterminated line",
        ),
        (lambda m: m.update({BATCH: b"{"}), "batch.json contains invalid JSON"),
        (
            lambda m: m.update({BATCH: m[BATCH].replace(b'"prompts"', b'"prompt"')}),
            "batch.json is invalid at",
        ),
        (lambda m: m.update({CONFIG: b"{}"}), "config.json is invalid at version"),
        (lambda m: m.update({CONFIG: m[CONFIG].replace(b"}", b" }")}), "batch.json does not match"),
        (lambda m: m.update({CONFIG: m[CONFIG].replace(b"Clear?", b"Paid?")}), "batch.json does not match"),
        (
            lambda m: m.update({BATCH: m[BATCH].replace(b"Clear?", b"Paid?", 1)}),
            "batch.json does not match",
        ),
        (lambda m: m.update({BATCH: m[BATCH].replace(b'"clarity"', b"4")}), "batch.json is invalid at"),
        (lambda m: m.update({BATCH: b"[" * 100_000}), "batch.json contains invalid JSON"),
        (lambda m: m.update({ATTEMPTS: b"[" * 100_000 + b"\n"}), "attempts.jsonl contains invalid JSON"),
        (lambda m: row(m, ATTEMPTS, connection_details=deep(99)), "a value with more than 100 levels"),
        (lambda m: row(m, ATTEMPTS, batch_id=8), "attempts.jsonl does not match"),
        (lambda m: row(m, ATTEMPTS, document_id=3), "attempts.jsonl does not match"),
        (lambda m: row(m, ATTEMPTS, prompt_id=3), "attempts.jsonl does not match"),
        (lambda m: row(m, ATTEMPTS, worker="w"), "attempts.jsonl does not match"),
        (lambda m: row(m, ATTEMPTS, id=True), "attempts.jsonl is invalid at id"),
        (lambda m: row(m, ATTEMPTS, id=32), "attempts.jsonl does not match"),
        (lambda m: row(m, FILES, document={"id": 9}), "files.jsonl is invalid at document.folder_id"),
        (lambda m: row(m, FILES, in_batch=None), "files.jsonl is invalid at in_batch"),
        (lambda m: row(m, DOCS, id=2), "docs.jsonl does not match"),
        (lambda m: row(m, DOCS, id=9), "attempts.jsonl does not match"),
        (lambda m: row(m, DOCS, file_size="3"), "docs.jsonl is invalid at file_size"),
        (
            lambda m: m.update({"history.jsonl": b'{"batch_id":8}\n'}),
            "history.jsonl is invalid at",
        ),
    ],
)
def test_a_file_whose_parts_do_not_belong_together_is_refused_though_its_manifest_fits(
    small: Path, edit: Callable[[Members], object], reason: str
) -> None:
    change(small, edit)  # type: ignore[arg-type] # what it returns does not matter
    told = refusal(small)
    assert told.startswith("is damaged (")
    assert reason in told


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda m: m.update(format="tar"), "is not a doceval archive: pass a file"),
        (lambda m: m.update(version=2), r"was written by a newer version of doceval_pipeline (format 2)"),
        (lambda m: m.update(version="1"), "manifest.json is invalid at version"),
        (lambda m: m.update(more=1), "manifest.json is invalid at more"),
        (lambda m: m.pop("batch"), "manifest.json is invalid at batch"),
        (lambda m: m["members"].pop(DOCS), "manifest.json lists other members"),
        (lambda m: m["members"][DOCS].update(rows=3), "docs.jsonl has a wrong number of rows"),
        (lambda m: m["members"][REPORT].update(bytes=3), "report.html differs from what was written"),
        (lambda m: m["members"][REPORT].update(sha256="0" * 64), "report.html differs from what was written"),
        (lambda m: m["documents"].update(count=3), "docs.jsonl does not match the rest"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    small: Path, edit: Callable[[dict[str, Any]], object], reason: str
) -> None:
    edit_manifest(small, edit)
    assert reason in refusal(small)


def test_a_member_that_stands_in_it_twice_is_refused(small: Path) -> None:
    members = read_members(small)
    with pytest.warns(UserWarning, match="Duplicate name"):
        write_members(small, [*members.items(), (REPORT, b"another")])
    assert OTHER_MEMBERS in refusal(small)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"%PDF-1.7\n", b"\0" * 100])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    assert re.match("is damaged|is not a doceval archive: pass a file", refusal(path))


def test_another_zip_a_folder_and_nothing_are_refused(tmp_path: Path) -> None:
    write_members(tmp_path / "other.zip", [("readme.txt", b"hello")])
    assert "is not a doceval archive" in refusal(tmp_path / "other.zip")
    assert "is not a doceval archive" in refusal(tmp_path)
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "none.zip")
