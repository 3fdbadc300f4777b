"""A file that somebody named, written so that it is whole under that name or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from doceval_pipeline.errors import ExportError


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file beside `path`, which takes its place once all of it is on the disk.

    Only its owner may read it. One that is there already stays until then, and stays if something fails.

    Raises
    ------
    ExportError
        Something else than a file has the name, or the file cannot be written.
    """
    # A link stays, and the file behind it is the one that is replaced.
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            raise ExportError(f"{path} is there and is no file: choose another name for the export")
        with NamedTemporaryFile(
            dir=target.parent, prefix=".doceval-export-", suffix=".partial", delete=False
        ) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, target)
            finally:
                Path(file.name).unlink(missing_ok=True)
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written ({error.strerror or error}): make room, or choose a folder that is "
            "there and that this user may write to"
        ) from None
