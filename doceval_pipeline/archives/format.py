"""What an archive is made of: the names of its members, its manifest, and the name of the file.

docs/archive.md tells the same to readers in other languages. What stands in the rows is the business
of the databases; here is only what ties the members together.
"""

import hashlib
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from doceval_pipeline.archives.json_text import JsonError, parse
from doceval_pipeline.archives.values import Moment, ShortText
from doceval_pipeline.errors import ArchiveError
from doceval_pipeline.names import printable

FORMAT: Final = "doceval-archive"
# Grows when an old reader would misread a new file; a new reader goes on reading old versions.
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
# Members that hold one JSON object a line.
ROWS = (PROGRESS, HISTORY, FILES, ATTEMPTS, DOCS)
# In the order in which they are written. The documents follow by their sha256, and the manifest is the last.
MEMBERS = (BATCH, CONFIG, REPORT, *ROWS)

MIB = 1024 * 1024
# Bounds of what a reader takes; whoever writes an archive reads it back and so keeps within them.
LARGEST_MANIFEST = MIB
LARGEST_DOCUMENT = 768_000_000
MOST_DOCUMENTS = 1_000_000
MOST_ROWS = 1_000_000_000
# In bytes. A member of rows may be any size, since it is read line by line.
LARGEST_MEMBERS = {BATCH: 256 * MIB, CONFIG: 128 * MIB, REPORT: 256 * MIB}
LARGEST_MEMBER = 2**40
# Numbers of batches, folders, connections and prompts, and of rows, as wide as their columns.
LARGEST_NUMBER = 2**31 - 1
LARGEST_ROW_ID = 2**63 - 1
# The same in archives of other installations: what is made afterwards finds numbers above them.
LARGEST_FOREIGN_NUMBER = 1_000_000_000
LARGEST_FOREIGN_ROW_ID = 10**15

SHA256 = r"^[0-9a-f]{64}$"
_Schema = Annotated[str, Field(pattern="^(doc_eval|knowledge)$")]
_VERSION = r"^[0-9A-Za-z.+!_-]{1,64}$"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Member(_Part):
    """A member as its manifest describes it; `rows` only where it holds rows."""

    sha256: str = Field(pattern=SHA256)
    bytes: int = Field(ge=0, le=LARGEST_MEMBER)
    rows: int | None = Field(default=None, ge=0, le=MOST_ROWS)


class Documents(_Part):
    """How many distinct contents there are, and their size in bytes."""

    count: int = Field(ge=0, le=MOST_DOCUMENTS)
    bytes: int = Field(ge=0, le=MOST_DOCUMENTS * LARGEST_DOCUMENT)


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
    batch: int = Field(ge=1, le=LARGEST_NUMBER)
    name: ShortText
    archived_at: Moment
    doceval: str = Field(pattern=_VERSION)
    schemas: dict[_Schema, Annotated[str, Field(pattern="^[0-9]{4}$")]]
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
        found = parse(content)
    except JsonError as error:
        raise damaged(file, f"{MANIFEST} {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise not_an_archive(file)
    version = found.get("version")
    if isinstance(version, int) and VERSION < version < NOT_A_VERSION:
        raise newer(file, f"format {version}")
    try:
        manifest = Manifest.model_validate(found)
    except ValidationError as error:
        raise damaged(file, f"{MANIFEST} {wrong_at(error)}") from None
    if set(manifest.members) != set(MEMBERS):
        raise damaged(file, f"{MANIFEST} names other members than format {VERSION} has")
    for name, member in manifest.members.items():
        if (member.rows is not None) != (name in ROWS):
            raise damaged(file, f"{MANIFEST} is wrong at members.{name}.rows")
        if member.bytes > LARGEST_MEMBERS.get(name, LARGEST_MEMBER):
            raise damaged(file, f"{name} is too large")
    return manifest


def wrong_at(error: ValidationError) -> str:
    """Where data is not what it should be."""
    place = error.errors(include_url=False, include_input=False, include_context=False)[0]["loc"]
    # Keys that are not known have names that somebody else chose.
    return f"is wrong at {'.'.join(printable(str(part))[:40] for part in place) or 'its root'}"


class DamagedArchive(ArchiveError):
    """A file is not what it was when it was written; `reason` says what is wrong with it."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} is damaged ({reason}): use another copy of it")
        self.reason = reason


def damaged(file: str, reason: str) -> DamagedArchive:
    """The error of a file that is not what it was when it was written."""
    return DamagedArchive(file, reason)


def not_an_archive(file: str) -> ArchiveError:
    """The error of a file that never was an archive."""
    return ArchiveError(f"{file} is no archive of a batch: name a file that doceval archive has written")


def newer(file: str, what: str) -> ArchiveError:
    """The error of a file that only a later version understands."""
    return ArchiveError(
        f"{file} was written by a newer version of doceval_pipeline ({what}): install that version"
    )
