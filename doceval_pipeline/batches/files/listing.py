"""Lists the files of a recurring evaluation outside of any transaction, in a temporary file.

A file system that does not answer holds up neither a lock nor a connection to a database.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from tempfile import TemporaryFile
from typing import Any

from doceval_pipeline.batches.files.folders import found_files
from doceval_pipeline.doc_eval.definitions.schema import RecurringDefinition
from doceval_pipeline.doc_eval.files import FoundFile
from doceval_pipeline.documents.walk import ASSIGNED, SKIPPED, display_name
from doceval_pipeline.errors import StagingError
from doceval_pipeline.settings import Settings

STILL_WRITTEN = "still being written"
# A walk that comes to no further name for so long hangs. A folder of a million names takes a while to open.
SECONDS_WITHOUT_ANSWER = 600.0


class Listing(AbstractContextManager["Listing"]):
    """What was found in folders, kept in a temporary file until the end of the block."""

    def __init__(self, found: Iterable[FoundFile]) -> None:
        digest = _Digest()
        self._file = TemporaryFile("w+", encoding="ascii")  # noqa: SIM115 - it is closed by `__exit__`
        try:
            for file in found:
                digest.add(file)
                kept = (
                    file.folder_id,
                    file.raw_path.decode("latin-1"),
                    file.state,
                    file.reason,
                    file.size,
                    file.modified_ns,
                )
                self._file.write(json.dumps(kept) + "\n")
        except BaseException:
            self._file.close()
            raise
        self.digest = digest.text

    def __iter__(self) -> Iterator[FoundFile]:
        self._file.seek(0)
        for line in self._file:
            folder_id, path, *rest = json.loads(line)
            raw_path = path.encode("latin-1")
            yield FoundFile(folder_id, raw_path, display_name(raw_path), *rest)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def list_files(
    definition: RecurringDefinition,
    folders: Sequence[dict[str, object]],
    now: datetime,
    settings: Settings,
    is_over: Callable[[], bool] = lambda: False,
) -> Listing:
    """List what is in the folders of a recurring evaluation.

    Parameters
    ----------
    folders
        As a configuration lists them.
    now
        The server's time at the call.
    is_over
        Asked before each name; the list ends there once it is true.

    Raises
    ------
    StagingError
        A folder is away, or the list cannot be kept.
    """
    try:
        return Listing(files_of(definition, folders, now, settings, is_over))
    except OSError as error:
        raise StagingError(
            f"the list of its files cannot be written to a temporary file ({error.strerror}): make room, or "
            "set TMPDIR"
        ) from None


def list_in_time(
    definition: RecurringDefinition, folders: Sequence[dict[str, object]], now: datetime, settings: Settings
) -> Listing:
    """As `list_files`, for as long as the file system answers.

    Raises
    ------
    StagingError
        Also where the file system does not answer.
    """
    waiting = _Listing(lambda is_over: list_files(definition, folders, now, settings, is_over))
    return waiting.end()


def files_of(
    definition: RecurringDefinition,
    folders: Sequence[dict[str, object]],
    now: datetime,
    settings: Settings,
    is_over: Callable[[], bool],
) -> Iterator[FoundFile]:
    """What is in the folders; of arrivals, files that are being written are SKIPPED."""
    choice = {"include": definition.include, "exclude": definition.exclude}
    found = found_files({"batch": choice, "folders": folders}, settings, is_over)
    return _settled(found, now, definition.quiet_for) if definition.on_arrival else found


def digest_of(found: Iterable[FoundFile]) -> str:
    """A digest of names, states, sizes and times, in the order of the walk."""
    digest = _Digest()
    for file in found:
        digest.add(file)
    return digest.text


class _Listing(threading.Thread):
    """A walk that can be given up although a system call of it never returns."""

    def __init__(self, act: Callable[[Callable[[], bool]], Listing]) -> None:
        super().__init__(name="list-files", daemon=True)
        self._act, self._names, self._is_given_up = act, 0, False
        self._listing: Listing | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        """List; what comes of it is kept for `end`."""
        try:
            self._listing = self._act(self._is_over)
        except Exception as error:  # noqa: BLE001 - `end` raises it
            self._error = error

    def end(self) -> Listing:
        """Begin, wait for the end, and give the list; raises what the walk raised."""
        self.start()
        while True:
            before = self._names
            self.join(SECONDS_WITHOUT_ANSWER)
            if not self.is_alive():
                break
            if self._names == before:
                self._is_given_up = True
                raise StagingError(
                    f"its folders did not answer for {SECONDS_WITHOUT_ANSWER:,.0f} seconds: check their file "
                    "system"
                )
        if self._listing is None:
            raise self._error or StagingError("its folders were not listed: ask again")
        return self._listing

    def _is_over(self) -> bool:
        self._names += 1
        return self._is_given_up


def _settled(found: Iterable[FoundFile], now: datetime, quiet_for: int) -> Iterator[FoundFile]:
    """What was found, with files that were written within `quiet_for` seconds as SKIPPED.

    The clock of a file server may be ahead, by less than that. A file that is dated later says nothing about
    when it was written.
    """
    began, start, quiet = time.monotonic_ns(), int(now.timestamp() * 1e9), quiet_for * 1_000_000_000
    for file in found:
        moment = start + time.monotonic_ns() - began
        is_fresh = file.state == ASSIGNED and abs((file.modified_ns or 0) - moment) < quiet
        yield replace(file, state=SKIPPED, reason=STILL_WRITTEN) if is_fresh else file


class _Digest:
    """A digest of what is found in folders."""

    def __init__(self) -> None:
        self._hash: Any = hashlib.sha256()

    def add(self, file: FoundFile) -> None:
        """Take a file into the digest."""
        self._hash.update(
            b"%d/%b\0%b %d %d\n"
            % (file.folder_id, file.raw_path, file.state.encode(), file.size or 0, file.modified_ns or 0)
        )

    @property
    def text(self) -> str:
        """Of all that was added."""
        return str(self._hash.hexdigest())
