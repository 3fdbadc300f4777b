"""Files of a batch: documents, names, those that are left out, and the labels that people read."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a document is known by: its sha256 in hex, its size in bytes, and its types."""

    sha256: str
    size: int
    content_type: str
    doc_type: str
    """The file extension in lower case without its dot; may be empty."""


@dataclass(frozen=True, slots=True)
class MeasuredDocument:
    """The size of a document in bytes, and its content type."""

    size: int
    content_type: str


# No `docs.id` is at or below the first, or above the second.
BEFORE_ALL_IDS, LAST_ID = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class DocumentRange:
    """All documents of a batch whose `docs.id` is above `after`, and at most `through`.

    `names` has the path of a file for each of the `ids`, where names are needed. By default, the range covers
    all ids.
    """

    ids: Sequence[int]
    names: Sequence[str] = ()
    after: int = BEFORE_ALL_IDS
    through: int = LAST_ID


def document_ranges(portions: Iterable[tuple[Sequence[int], Sequence[str]]]) -> Iterator[DocumentRange]:
    """Ranges that together cover all ids, from portions of ids and names in ascending order of ids."""
    after = BEFORE_ALL_IDS
    ids: Sequence[int] = ()
    names: Sequence[str] = ()
    for following in portions:
        if ids:
            yield DocumentRange(ids, names, after, ids[-1])
            after = ids[-1]
        ids, names = following
    yield DocumentRange(ids, names, after)


@dataclass(frozen=True, slots=True)
class FileName:
    """The folder in which a file was found, and its path below that folder."""

    folder: str
    path: str


@dataclass(frozen=True, slots=True)
class FileGroup:
    """Files that are not evaluated for the same reason: how many, and the names of the first."""

    state: str
    reason: str | None
    files: int
    names: tuple[FileName, ...]


@dataclass(frozen=True, slots=True)
class EvaluatedFile:
    """A file that is evaluated or will be; or, without `name` and `state`, a document without a file.

    `document_id` is None until the file is stored. `size` is in bytes.
    """

    name: FileName | None
    document_id: int | None
    state: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True)
class FileLabels:
    """The labels of files and documents: paths, with the end of their folder if the batch has several.

    They never name a folder of the machine above the end that tells the folders of the batch apart.

    Attributes
    ----------
    folders
        All folders of the batch.
    first_files
        The first file of each document that has a label; None if the batch has no file of it.
    """

    folders: tuple[str, ...]
    first_files: Mapping[int, FileName | None]

    def of_file(self, name: FileName) -> str:
        """The label of a file."""
        return f"{self.of_folder(name.folder)}/{name.path}" if len(self.folders) > 1 else name.path

    def of_folder(self, folder: str) -> str:
        """The shortest end of a folder's path that no other folder of the batch has."""
        return _folder_ends(self.folders).get(folder) or _end(_parts(folder), 1)

    def of_document(self, document_id: int) -> str:
        """The label of a document's first file; its id if the batch has no file of it."""
        name = self.first_files[document_id]
        return f"document {document_id}" if name is None else self.of_file(name)

    def of_files(self, names: Iterable[FileName]) -> list[str]:
        """The labels of several files."""
        return [self.of_file(name) for name in names]

    def of_documents(self, document_ids: Iterable[int]) -> list[str]:
        """The labels of several documents."""
        return [self.of_document(document_id) for document_id in document_ids]

    def twin(self, file: EvaluatedFile) -> str | None:
        """The label of the first file with the same content; None for that file itself."""
        if file.document_id is None or file.name is None:
            return None
        first = self.first_files[file.document_id]
        return None if first is None or first == file.name else self.of_file(first)


@lru_cache(64)
def _folder_ends(folders: tuple[str, ...]) -> dict[str, str]:
    """The label of each folder."""
    parts = {folder: _parts(folder) for folder in folders}
    taken = Counter(_end(p, n) for p in parts.values() for n in range(1, len(p) + 1))
    return {
        folder: next(
            (end for n in range(1, len(p) + 1) if taken[end := _end(p, n)] == 1),
            _end(p, len(p)),
        )
        for folder, p in parts.items()
    }


def _parts(folder: str) -> list[str]:
    return [part for part in folder.split("/") if part] or [""]


def _end(parts: list[str], length: int) -> str:
    return "/".join(parts[-length:])
