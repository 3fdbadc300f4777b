"""Draws a random sample of documents from files, reading as few of them as possible.

Every distinct document has the same chance, however many copies it has. Copies have the same size, so only
files of the sizes that are drawn are read. The same seed and the same files give the same sample.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from doceval_pipeline.doc_eval.files import FoundFile
from doceval_pipeline.documents.reading import DocumentRejected

# A sample reads at most this many files to find copies. In a folder with many files of one size, copies
# beyond that count as documents of their own.
MOST_COMPARED = 2_000


@dataclass(frozen=True, slots=True)
class Sample:
    """A random sample of documents, each as its first file in the order of paths.

    `files_found` usable files were drawn from.
    """

    files: Sequence[FoundFile]
    files_found: int
    are_copies_known: bool
    """Whether all copies among the files that could be drawn were found."""


def draw_sample(
    files: Sequence[FoundFile], documents: int, seed: int, read: Callable[[FoundFile], str]
) -> Sample:
    """A sample of at most so many documents, in the order of paths.

    Parameters
    ----------
    files
        Usable files, each once.
    read
        Returns the sha256 of a file, or raises DocumentRejected.
    """
    drawing = _Drawing(files, read)
    chosen: dict[str, int] = {}
    for place in _in_random_order(drawing.files, seed):
        if len(chosen) == documents:
            break
        sha256 = drawing.sha256(place)
        # Otherwise a document would be drawn more often the more copies it has.
        if sha256 is not None and sha256 not in chosen and drawing.is_first(place, sha256):
            chosen[sha256] = place
    return Sample(
        files=[drawing.files[place] for place in sorted(chosen.values())],
        files_found=len(files),
        are_copies_known=not drawing.was_cut,
    )


class _Drawing:
    """The files that are drawn from, in the order of paths, and the contents of those that were read."""

    def __init__(self, files: Sequence[FoundFile], read: Callable[[FoundFile], str]) -> None:
        self.files = sorted(files, key=lambda file: (file.folder_id, file.raw_path))
        self.was_cut = False
        self._read = read
        self._contents: dict[int, str | None] = {}
        self._compared = 0
        self._same_size: defaultdict[int | None, list[int]] = defaultdict(list)
        for place, file in enumerate(self.files):
            self._same_size[file.size].append(place)

    def sha256(self, place: int) -> str | None:
        """The content of a file, which is read once; None if it cannot be used."""
        if place not in self._contents:
            try:
                self._contents[place] = self._read(self.files[place])
            except DocumentRejected:
                self._contents[place] = None
        return self._contents[place]

    def is_first(self, place: int, sha256: str) -> bool:
        """Whether no earlier file has this content, as far as files were compared."""
        for earlier in self._same_size[self.files[place].size]:
            if earlier >= place:
                break
            if earlier not in self._contents:
                if self._compared >= MOST_COMPARED:
                    self.was_cut = True
                    return True
                self._compared += 1
            if self.sha256(earlier) == sha256:
                return False
        return True


def _in_random_order(files: Sequence[FoundFile], seed: int) -> list[int]:
    """Places of files, in an order that depends on the seed and on the paths alone.

    Folders count by their order, so that a folder that was moved gives the same sample.
    """
    folders = {number: place for place, number in enumerate(sorted({file.folder_id for file in files}))}

    def rank(place: int) -> bytes:
        file = files[place]
        name = f"{seed}/{folders[file.folder_id]}/".encode() + file.raw_path
        return hashlib.sha256(name).digest()

    return sorted(range(len(files)), key=rank)
