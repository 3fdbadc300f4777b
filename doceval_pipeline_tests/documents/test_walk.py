"""Walking an untrusted folder: every entry is listed once with its reason, and nothing else is touched."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from doceval_pipeline.documents.walk import Entry, Rules, display_name, walk
from doceval_pipeline.errors import StagingError
from doceval_pipeline_tests.unprivileged import unprivileged


def found(folder: Path, **rules: object) -> dict[bytes, tuple[str, str | None]]:
    entries = list(walk(folder, Rules(**rules)))  # type: ignore[arg-type] # each test gives the right ones
    assert len({entry.path for entry in entries}) == len(entries)
    return {entry.path: (entry.state, entry.reason) for entry in entries}


def test_every_kind_of_entry_is_listed_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside.txt").write_text("secret")
    (folder / "good.txt").write_text("x")
    (folder / "sub" / "deep.txt").write_text("x")
    (folder / "empty").touch()
    (folder / "large").write_bytes(b"x" * 101)
    (folder / ".hidden").write_text("x")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    (folder / "out").symlink_to(tmp_path / "outside.txt")
    (folder / "loop").symlink_to(folder)
    (folder / "broken").symlink_to("nowhere")
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        assert found(folder, max_bytes=100) == {
            b"good.txt": ("ASSIGNED", None),
            b"sub/deep.txt": ("ASSIGNED", None),
            b"empty": ("SKIPPED", "empty"),
            b"large": ("REJECTED", "too large"),
            b".hidden": ("SKIPPED", "hidden"),
            b".git/config": ("SKIPPED", "hidden"),
            b"out": ("SKIPPED", "symlink"),
            b"loop": ("SKIPPED", "symlink"),
            b"broken": ("SKIPPED", "symlink"),
            b"fifo": ("SKIPPED", "not a regular file"),
            b"socket": ("SKIPPED", "not a regular file"),
        }


@pytest.mark.parametrize("size", [1, 2, 3, 99, 100])
def test_a_file_up_to_the_limit_is_assigned_with_its_size(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    os.utime(tmp_path / "file", ns=(5, 7))
    assert list(walk(tmp_path, Rules(max_bytes=100))) == [Entry(b"file", "ASSIGNED", None, size, 7)]


@pytest.mark.parametrize(
    "name", ["it's", 'a "b"', "two\nlines", "🗎 emoji", "n" * 255, "-rf", "*", "a\\b", " lead", "café", "‮abc"]
)
def test_any_name_that_is_utf8_is_kept_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    (entry,) = walk(tmp_path, Rules())
    assert (entry.path, entry.state) == (os.fsencode(name), "ASSIGNED")
    assert display_name(entry.path) == name


def test_names_that_are_not_utf8_are_rejected_and_can_still_be_shown(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    os.mkdir(folder + b"/dir\xff")
    for path in (b"/caf\xe9", b"/dir\xff/plain.txt"):
        with open(folder + path, "wb") as file:
            file.write(b"x")
    assert found(tmp_path) == {
        b"caf\xe9": ("REJECTED", "name not UTF-8"),
        b"dir\xff/plain.txt": ("REJECTED", "name not UTF-8"),
    }
    assert display_name(b"caf\xe9") == r"caf\xe9"


def test_patterns_are_those_of_gitignore_and_exclude_wins(tmp_path: Path) -> None:
    for path in ("a.pdf", "b.txt", "drafts/c.pdf", "sub/d.pdf", "sub/e.PDF"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("x")
    assert found(tmp_path, include=("*.pdf",), exclude=("drafts/",)) == {
        b"a.pdf": ("ASSIGNED", None),
        b"b.txt": ("SKIPPED", "not included by pattern"),
        b"drafts/c.pdf": ("SKIPPED", "excluded by pattern"),
        b"sub/d.pdf": ("ASSIGNED", None),
        b"sub/e.PDF": ("SKIPPED", "not included by pattern"),
    }


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder 1,100 levels deep with a file at the bottom and one half way."""
    top = tmp_path / "deep"
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for level in range(1100):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
        if level in (549, 1099):
            os.close(os.open("f.txt", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
            file = os.open("f.txt", os.O_WRONLY, dir_fd=descriptor)
            os.write(file, b"x")
            os.close(file)
    os.close(descriptor)
    yield top
    subprocess.run(["rm", "-rf", str(top)], check=True)


def test_a_tree_of_any_depth_is_walked_with_few_open_folders(deep: Path) -> None:
    paths, most = [], 0
    for entry in walk(deep, Rules()):
        paths.append(entry.path)
        most = max(most, len(os.listdir("/dev/fd")))
    assert paths == [b"d/" * 1100 + b"f.txt", b"d/" * 550 + b"f.txt"]
    assert most < 120


def test_the_order_is_always_the_same(tmp_path: Path) -> None:
    for name in ("b", "a", "C", "ä"):
        (tmp_path / name).write_text("x")
    assert list(found(tmp_path)) == [b"C", b"a", b"b", "ä".encode()]


def test_no_folder_stays_open_when_the_walk_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "f").write_text("x")
    before = len(os.listdir("/dev/fd"))
    walking = walk(tmp_path, Rules())
    next(walking)
    del walking
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize(("kind", "problem"), [("missing", "does not exist"), ("file", "is not a folder")])
def test_a_path_that_is_not_a_folder_is_named(tmp_path: Path, kind: str, problem: str) -> None:
    if kind == "file":
        (tmp_path / kind).touch()
    with pytest.raises(StagingError, match=f"{kind} {problem}"):
        list(walk(tmp_path / kind, Rules()))


def test_what_may_not_be_read_is_listed_and_not_left_out() -> None:
    # Below the tests' own folder nobody else may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in ("closed.txt", "open.txt", "shut/inside.txt", "listed-only/inside.txt"):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text("x")
        for path, mode in (("", 0o755), ("closed.txt", 0), ("shut", 0), ("listed-only", 0o444)):
            (folder / path).chmod(mode)
        seen = unprivileged(lambda: {display_name(path): why for path, (_, why) in found(folder).items()})
        for path in ("shut", "listed-only"):
            (folder / path).chmod(0o755)
        assert seen == {
            "closed.txt": "unreadable",
            "listed-only/inside.txt": "unreadable",
            "open.txt": None,
            "shut": "unreadable folder",
        }
