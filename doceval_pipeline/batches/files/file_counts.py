"""How many files of a batch are used, and why others are not: as a sentence and as data."""

from collections.abc import Iterable

from doceval_pipeline.batches.databases import Databases, database_errors
from doceval_pipeline.doc_eval.files import Tally, tally
from doceval_pipeline.documents.walk import REASONS_OF_FOLDERS
from doceval_pipeline.reports.formatting import counted


def batch_tallies(databases: Databases, batch_id: int) -> list[Tally]:
    """The files of a batch by state and reason, read from the database."""
    with database_errors(), databases.doc_eval.connect() as connection:
        return tally(connection, batch_id)


def staged(files: int, documents: int) -> str:
    """How many documents are stored, and from how many files if the number differs."""
    text = counted(documents, "document staged", "documents staged")
    return text if files == documents else f"{text} from {counted(files, 'file', 'files')}"


def left_out(tallies: Iterable[Tally]) -> str:
    """Unused files as a sentence: `9 files skipped: 7 hidden, 2 empty; 1 rejected: vanished`."""
    parts: list[str] = []
    folders: dict[str, int] = {}
    for word, reasons in left_out_by_reason(tallies).items():
        folders |= {reason: reasons.pop(reason) for reason in REASONS_OF_FOLDERS if reason in reasons}
        if reasons:
            files = sum(reasons.values())
            noun = "" if parts else (" file" if files == 1 else " files")
            parts.append(f"{files:,}{noun} {word}: {_in_words(reasons)}")
    if folders:
        parts.append(
            f"{counted(sum(folders.values()), 'folder', 'folders')} not entered: {_in_words(folders)}"
        )
    return "; ".join(parts) or "no file left out"


def left_out_by_reason(tallies: Iterable[Tally]) -> dict[str, dict[str, int]]:
    """Unused files by reason, under `skipped` and `rejected`, most frequent first."""
    by_state: dict[str, dict[str, int]] = {"skipped": {}, "rejected": {}}
    for counts in sorted(tallies, key=lambda counts: (-counts.files, counts.reason)):
        if counts.state.lower() in by_state:
            by_state[counts.state.lower()][counts.reason] = counts.files
    return by_state


def _in_words(reasons: dict[str, int]) -> str:
    if len(reasons) == 1:
        return next(iter(reasons))
    return ", ".join(f"{files:,} {reason}" for reason, files in reasons.items())
