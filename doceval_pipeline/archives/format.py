"""What an archive is made of: the names of its members, its manifest, and the name of the file.

docs/archive.md tells the same to readers in other languages. What stands in the rows is the business
of the databases; here is only what ties the members together.
"""

import hashlib
import json
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from doceval_pipeline.errors import ArchiveError

FORMAT: Final = "doceval-archive"
# Grows when an old reader would misread a new file; a new reader goes on reading old versions.
VERSION: Final = 1

MANIFEST = "manifest.json"
CONFIG = "config.json"
BATCH = "batch.json"
REPORT = "report.html"
FILES = "files.jsonl"
ATTEMPTS = "attempts.jsonl"
PROGRESS = "progress.jsonl"
HISTORY = "history.jsonl"
DOCS = "docs.jsonl"
DOCUMENTS = "documents/"
# Members that hold one JSON object a line.
ROWS = (FILES, ATTEMPTS, PROGRESS, HISTORY, DOCS)
MEMBERS = (CONFIG, BATCH, REPORT, *ROWS)

_SHA256 = r"^[0-9a-f]{64}$"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Member(_Part):
    """A member as its manifest describes it; `rows` only where it holds rows."""

    sha256: str = Field(pattern=_SHA256)
    bytes: int = Field(ge=0)
    rows: int | None = Field(default=None, ge=0)


class Documents(_Part):
    """How many distinct contents there are, and their size in bytes."""

    count: int = Field(ge=0)
    bytes: int = Field(ge=0)


class Manifest(_Part):
    """What stands in an archive. The documents are listed in `docs.jsonl`, by their sha256.

    Parameters
    ----------
    archived_at
        In UTC, as ISO 8601.
    doceval
        The version of doceval_pipeline that wrote the file.
    schemas
        The revision of both databases' schemas, by name.
    """

    format: Literal["doceval-archive"] = FORMAT
    version: Literal[1] = VERSION
    batch: int = Field(ge=1, lt=2**31)
    name: str
    archived_at: str
    doceval: str
    schemas: dict[str, str]
    documents: Documents
    members: dict[str, Member]

    @property
    def content_digest(self) -> str:
        """The same for the same content, whenever and by whichever version it was archived."""
        content = self.model_dump_json(include={"batch", "documents", "members"})
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """The manifest as it stands in the file."""
        return self.model_dump_json(indent=2, exclude_none=True).encode()


def read_manifest(content: bytes, file: str) -> Manifest:
    """Read a manifest, and refuse what this version does not understand.

    Raises
    ------
    ArchiveError
    """
    try:
        found = json.loads(content)
    except ValueError:
        raise damaged(file, f"{MANIFEST} is not JSON") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise not_an_archive(file)
    version = found.get("version")
    if isinstance(version, int) and version > VERSION:
        raise newer(file, f"format {version}")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise damaged(file, f"{MANIFEST} is wrong at {where or 'its root'}") from None
    if set(manifest.members) != set(MEMBERS):
        raise damaged(file, f"{MANIFEST} names other members than format {VERSION} has")
    return manifest


def damaged(file: str, reason: str) -> ArchiveError:
    """The error of a file that is not what it was when it was written."""
    return ArchiveError(f"{file} is damaged ({reason}): use another copy of it")


def not_an_archive(file: str) -> ArchiveError:
    """The error of a file that never was an archive."""
    return ArchiveError(f"{file} is no archive of a batch: name a file that doceval archive has written")


def newer(file: str, what: str) -> ArchiveError:
    """The error of a file that only a later version understands."""
    return ArchiveError(
        f"{file} was written by a newer version of doceval_pipeline ({what}): install that version"
    )
