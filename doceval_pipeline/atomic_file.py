"""Atomic file writes, and standard output as an alternative to a file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from doceval_pipeline.errors import FileError

# As an argument on a command line; a file named - is written ./-
STANDARD_OUTPUT = Path("-")


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn operating system errors while a file is written into a FileError of one line."""
    try:
        yield
    except OSError as error:
        raise FileError(
            f"{path} cannot be written ({error.strerror or error}): free disk space, or check that its "
            "folder exists and that this user may write to it"
        ) from None


@contextmanager
def atomic_file(path: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A new file that replaces `path` atomically once it is completely on disk.

    An existing file stays until then, and stays if anything fails. With the default `mode`, only the owner
    can read the new file.

    Raises
    ------
    FileError
        `path` is not a regular file, or the file cannot be written.
    """
    # A symbolic link stays; the file it points to is replaced.
    target = Path(os.path.realpath(path))
    with file_errors(path):
        # The kernel rejects .. in a missing folder; realpath does not.
        path.parent.stat()
        if target.exists() and not target.is_file():
            raise FileError(f"{path} exists and is not a regular file: choose another path")
        with NamedTemporaryFile(
            dir=target.parent, prefix=".doceval-", suffix=".partial", delete=False
        ) as file:
            try:
                yield file
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
                os.replace(file.name, target)
            finally:
                Path(file.name).unlink(missing_ok=True)


@contextmanager
def atomic_file_or_stdout(path: Path) -> Iterator[IO[bytes]]:
    """As `atomic_file`, or standard output without buffering for `STANDARD_OUTPUT`.

    Raises
    ------
    FileError
        As `atomic_file`; also if standard output cannot be written.
    BrokenPipeError
        The program that reads standard output has ended.
    """
    if path == STANDARD_OUTPUT:
        # Not the buffer of sys.stdout, which would fail again at exit, or not at all.
        sys.stdout.flush()
        with _output_errors(), open(sys.stdout.fileno(), "wb", closefd=False) as file:
            yield file
    else:
        with atomic_file(path) as file:
            yield file


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(
            f"standard output cannot be written ({error.strerror or error}): free disk space, or name a file"
        ) from None
