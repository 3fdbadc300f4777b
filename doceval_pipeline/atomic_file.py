"""Atomic file writes, and standard output in place of a file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from doceval_pipeline.errors import FileError

# As a path on a command line; a file of this name is ./-
STANDARD_OUTPUT = Path("-")


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """What the system refuses while a file is written becomes a FileError in one line."""
    try:
        yield
    except OSError as error:
        raise FileError(
            f"{path} cannot be written ({error.strerror or error}): make room, or see that its folder is "
            "there and that this user may write to it"
        ) from None


@contextmanager
def whole_file(path: Path, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A new file beside `path`, which takes its place once all of it is on the disk.

    One that is there already stays until then, and stays if something fails. Only its owner may read the
    new one, unless `mode` says otherwise.

    Raises
    ------
    FileError
        Something else than a file has the name, or the file cannot be written.
    """
    # A link stays, and the file behind it is the one that is replaced.
    target = Path(os.path.realpath(path))
    with file_errors(path):
        # The kernel does not go up from a folder that does not exist; realpath does.
        path.parent.stat()
        if target.exists() and not target.is_file():
            raise FileError(f"{path} is there and is no file: choose another name")
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
def whole_file_or_output(path: Path) -> Iterator[IO[bytes]]:
    """As `whole_file`, or standard output for `STANDARD_OUTPUT`, where what is written shows at once.

    Raises
    ------
    FileError
        As `whole_file`; also where standard output cannot be written.
    BrokenPipeError
        The program that reads standard output has stopped.
    """
    if path == STANDARD_OUTPUT:
        # Not sys.stdout's own buffer, which fails once more when the process ends, or not at all.
        sys.stdout.flush()
        with _output_errors(), open(sys.stdout.fileno(), "wb", closefd=False) as file:
            yield file
    else:
        with whole_file(path) as file:
            yield file


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FileError(
            f"standard output cannot be written ({error.strerror or error}): make room, or name a file"
        ) from None
