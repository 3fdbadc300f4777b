"""The archive format: names of the members, limits, and the manifest.

docs/archive.md documents it for readers in other languages. `rows` defines the rows of the members.
"""

import hashlib
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from doceval_pipeline.archives.json_text import JsonError, parse
from doceval_pipeline.archives.values import Moment, ShortText
from doceval_pipeline.errors import ArchiveError
from doceval_pipeline.names import printable

FORMAT: Final = "doceval-archive"
# Incremented when old readers would misread new files; new readers still read old versions.
VERSION: Final = 1
NOT_A_VERSION = 1000

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
# Members with one JSON object per line.
ROWS = (PROGRESS, HISTORY, FILES, ATTEMPTS, DOCS)
# In the order in which they are written. The documents follow, ordered by sha256; the manifest is last.
MEMBERS = (BATCH, CONFIG, REPORT, *ROWS)

MIB = 1024 * 1024
# Limits of readers. Every written archive is read back, so writers keep them, too.
LARGEST_MANIFEST = MIB
LARGEST_DOCUMENT = 768_000_000
MOST_DOCUMENTS = 1_000_000
MOST_ROWS = 1_000_000_000
# In bytes. Members of rows may have any size, because they are read line by line.
LARGEST_MEMBERS = {BATCH: 256 * MIB, CONFIG: 128 * MIB, REPORT: 256 * MIB}
LARGEST_MEMBER = 2**40
# Largest ids of batches, folders, connections and prompts, and of rows: the range of their columns.
LARGEST_NUMBER = 2**31 - 1
LARGEST_ROW_ID = 2**63 - 1
# The same in archives of other installations, which leaves ids for rows that are created later.
LARGEST_FOREIGN_NUMBER = 1_000_000_000
LARGEST_FOREIGN_ROW_ID = 10**15

SHA256 = r"^[0-9a-f]{64}$"
_Schema = Annotated[str, Field(pattern="^(doc_eval|knowledge)$")]
_VERSION = r"^[0-9A-Za-z.+!_-]{1,64}$"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Member(_Part):
    """A member in the manifest; `rows` only for members of rows."""

    sha256: str = Field(pattern=SHA256)
    bytes: int = Field(ge=0, le=LARGEST_MEMBER)
    rows: int | None = Field(default=None, ge=0, le=MOST_ROWS)


class Documents(_Part):
    """Number of distinct documents, and their total size in bytes."""

    count: int = Field(ge=0, le=MOST_DOCUMENTS)
    bytes: int = Field(ge=0, le=MOST_DOCUMENTS * LARGEST_DOCUMENT)


class Manifest(_Part):
    """The manifest of an archive. Documents are listed in `docs.jsonl`, ordered by sha256.

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
    batch: int = Field(ge=1, le=LARGEST_NUMBER)
    name: ShortText
    archived_at: Moment
    doceval: str = Field(pattern=_VERSION)
    schemas: dict[_Schema, Annotated[str, Field(pattern="^[0-9]{4}$")]]
    documents: Documents
    members: dict[str, Member]

    @property
    def content_digest(self) -> str:
        """Digest of the contents; independent of the time and version of archiving."""
        content = self.model_dump_json(include={"batch", "documents", "members"})
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def to_bytes(self) -> bytes:
        """The manifest as written to the file."""
        return self.model_dump_json(indent=2, exclude_none=True).encode()


def read_manifest(content: bytes, file: str) -> Manifest:
    """Parse a manifest; raises for what this version does not understand.

    Raises
    ------
    ArchiveError
    """
    try:
        value = parse(content)
    except JsonError as error:
        raise damaged(file, f"{MANIFEST} {error}") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise not_an_archive(file)
    version = value.get("version")
    if isinstance(version, int) and VERSION < version < NOT_A_VERSION:
        raise newer(file, f"format {version}")
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        raise damaged(file, f"{MANIFEST} {validation_problem(error)}") from None
    if set(manifest.members) != set(MEMBERS):
        raise damaged(file, f"{MANIFEST} lists other members than format {VERSION}")
    for name, member in manifest.members.items():
        if (member.rows is not None) != (name in ROWS):
            raise damaged(file, f"{MANIFEST} is invalid at members.{name}.rows")
        if member.bytes > LARGEST_MEMBERS.get(name, LARGEST_MEMBER):
            raise damaged(file, f"{name} is too large")
    return manifest


def validation_problem(error: ValidationError) -> str:
    """The location of the first invalid value, as a clause."""
    place = error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"]
    # Unknown keys have untrusted names.
    return f"is invalid at {'.'.join(printable(str(part))[:40] for part in place) or 'its root'}"


class DamagedArchive(ArchiveError):
    """The file differs from what was written; `reason` is the problem."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} is damaged ({reason}): use another copy of it")
        self.reason = reason


def damaged(file: str, reason: str) -> DamagedArchive:
    """The error for a file that differs from what was written."""
    return DamagedArchive(file, reason)


def not_an_archive(file: str) -> ArchiveError:
    """The error for a file that is not an archive."""
    return ArchiveError(f"{file} is not a doceval archive: pass a file created by doceval archive")


def newer(file: str, what: str) -> ArchiveError:
    """The error for a file that needs a newer version."""
    return ArchiveError(
        f"{file} was written by a newer version of doceval_pipeline ({what}): install that version"
    )
