"""Lists the files of a recurring evaluation outside of any transaction, in a temporary file.

A file system that hangs therefore blocks neither a lock nor a database connection.
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
# A walk that finds no further entry for this long counts as hanging. A folder of a million entries opens
# slowly.
SECONDS_WITHOUT_ANSWER = 600.0


class Listing(AbstractContextManager["Listing"]):
    """The files found in folders, in a temporary file that exists until the end of the `with` block."""

    def __init__(self, files: Iterable[FoundFile]) -> None:
        digest = _Digest()
        self._file = TemporaryFile("w+", encoding="ascii")  # noqa: SIM115 - it is closed by `__exit__`
        try:
            for file in files:
                digest.add(file)
                kept = (
                    file.folder_id,
                    file.raw_path.decode("latin-1"),
                    file.state,
                    file.reason,
                    file.size,
                    file.modified_ns,
                    file.etag,
                )
                self._file.write(json.dumps(kept) + "\n")
        except BaseException:
            self._file.close()
            raise
        self.digest = digest.text

    def __iter__(self) -> Iterator[FoundFile]:
        self._file.seek(0)
        for line in self._file:
            folder_id, path, state, reason, size, modified_ns, etag = json.loads(line)
            raw_path = path.encode("latin-1")
            yield FoundFile(
                folder_id=folder_id,
                raw_path=raw_path,
                filepath=display_name(raw_path),
                state=state,
                reason=reason,
                size=size,
                modified_ns=modified_ns,
                etag=etag,
            )

    def __exit__(self, *_: object) -> None:
        self._file.close()


def list_files(
    definition: RecurringDefinition,
    folders: Sequence[dict[str, object]],
    now: datetime,
    settings: Settings,
    should_stop: Callable[[], bool] = lambda: False,
) -> Listing:
    """List the files in the folders of a recurring evaluation.

    Parameters
    ----------
    folders
        Ids and paths as in a sealed configuration.
    now
        The server's time at the call.
    should_stop
        Called before each name; the listing ends once it returns True.

    Raises
    ------
    StagingError
        A folder is missing, or the temporary file cannot be written.
    """
    try:
        return Listing(files_of(definition, folders, now, settings, should_stop))
    except OSError as error:
        raise StagingError(
            f"the list of its files cannot be written to a temporary file ({error.strerror}): free disk "
            "space, or set TMPDIR"
        ) from None


def list_in_time(
    definition: RecurringDefinition, folders: Sequence[dict[str, object]], now: datetime, settings: Settings
) -> Listing:
    """As `list_files`, but gives up when the file system does not answer.

    Raises
    ------
    StagingError
        As `list_files`, or the file system does not answer.
    """
    thread = _ListingThread(lambda should_stop: list_files(definition, folders, now, settings, should_stop))
    return thread.result()


def files_of(
    definition: RecurringDefinition,
    folders: Sequence[dict[str, object]],
    now: datetime,
    settings: Settings,
    should_stop: Callable[[], bool],
) -> Iterator[FoundFile]:
    """Yield the files in the folders; for `on_arrival`, files that are still being written are SKIPPED."""
    choice = {"include": definition.include, "exclude": definition.exclude}
    files = found_files({"batch": choice, "folders": folders}, settings, should_stop)
    return _settled(files, now, definition.quiet_for) if definition.on_arrival else files


def digest_of(files: Iterable[FoundFile]) -> str:
    """A digest of names, states, sizes, times and ETags, in the order of the walk."""
    digest = _Digest()
    for file in files:
        digest.add(file)
    return digest.text


class _ListingThread(threading.Thread):
    """Lists files in a thread that can be abandoned if a system call never returns."""

    def __init__(self, act: Callable[[Callable[[], bool]], Listing]) -> None:
        super().__init__(name="list-files", daemon=True)
        self._act, self._names, self._is_abandoned = act, 0, False
        self._listing: Listing | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        """List; `result` returns the listing or raises the error."""
        try:
            self._listing = self._act(self._should_stop)
        except Exception as error:  # noqa: BLE001 - `result` raises it
            self._error = error

    def result(self) -> Listing:
        """Start the thread, wait for it, and return its listing or raise its error."""
        self.start()
        while True:
            before = self._names
            self.join(SECONDS_WITHOUT_ANSWER)
            if not self.is_alive():
                break
            if self._names == before:
                self._is_abandoned = True
                raise StagingError(
                    f"its folders did not answer for {SECONDS_WITHOUT_ANSWER:,.0f} seconds: check their file "
                    "system"
                )
        if self._listing is None:
            raise self._error or StagingError("its folders were not listed: run it again")
        return self._listing

    def _should_stop(self) -> bool:
        self._names += 1
        return self._is_abandoned


def _settled(files: Iterable[FoundFile], now: datetime, quiet_for: int) -> Iterator[FoundFile]:
    """The found files, with those modified within the last `quiet_for` seconds as SKIPPED.

    The clock of a file server may be ahead by up to `quiet_for`; times further ahead are ignored.
    """
    began, start, quiet = time.monotonic_ns(), int(now.timestamp() * 1e9), quiet_for * 1_000_000_000
    for file in files:
        moment = start + time.monotonic_ns() - began
        is_fresh = file.state == ASSIGNED and abs((file.modified_ns or 0) - moment) < quiet
        yield replace(file, state=SKIPPED, reason=STILL_WRITTEN) if is_fresh else file


class _Digest:
    """A digest of found files."""

    def __init__(self) -> None:
        self._hash: Any = hashlib.sha256()

    def add(self, file: FoundFile) -> None:
        """Add a file."""
        self._hash.update(
            b"%d/%b\0%b %d %d\n"
            % (file.folder_id, file.raw_path, file.state.encode(), file.size or 0, file.modified_ns or 0)
        )
        if file.etag is not None:
            self._hash.update(file.etag.encode())

    @property
    def text(self) -> str:
        """The digest of all added files, as hexadecimal text."""
        return str(self._hash.hexdigest())
