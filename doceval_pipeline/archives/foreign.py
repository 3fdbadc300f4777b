"""Additional checks of archives from other installations.

A batch from another installation must be done and request nothing. Own archives may contain more, because it
was in this installation before.
"""

from collections.abc import Iterator

from doceval_pipeline.archives.checking import CheckedArchive, same
from doceval_pipeline.archives.format import (
    ATTEMPTS,
    BATCH,
    DOCS,
    FILES,
    HISTORY,
    LARGEST_FOREIGN_NUMBER,
    LARGEST_FOREIGN_ROW_ID,
)


def objection(checked: CheckedArchive) -> str | None:
    """Why an archive of another installation cannot be restored: member and problem; None if it can."""
    return next(_objections(checked), None)


def _objections(checked: CheckedArchive) -> Iterator[str]:
    batch, row = checked.batch, checked.batch.batch
    numbers = [row.id, row.batch_number, *(folder.id for folder in batch.folders)]
    numbers += [connection.id for connection in batch.connections]
    numbers += [prompt.id for prompt in batch.prompts]
    if max(numbers) > LARGEST_FOREIGN_NUMBER:
        yield f"{BATCH} has a number above {LARGEST_FOREIGN_NUMBER:,}"
    largest = {DOCS: checked.largest_document, ATTEMPTS: checked.largest_attempt, FILES: checked.largest_file}
    for member, number in largest.items():
        if number > LARGEST_FOREIGN_ROW_ID:
            yield f"{member} has an id above {LARGEST_FOREIGN_ROW_ID:,}"
    is_failed_staging = row.status == "FAILED_STAGING"
    if row.stage_requested_at is not None or (is_failed_staging and row.stage_after is not None):
        yield f"{BATCH} requests its staging"
    sealed = checked.config.batch
    described = [row.description, row.meta_data, row.include_patterns, row.exclude_patterns, row.margin]
    chosen = [sealed.description, sealed.metadata, sealed.include, sealed.exclude, sealed.margin]
    if not same(described, chosen):
        yield f"{BATCH} differs from the sealed configuration of the batch"
    if not same([f.folder_path for f in batch.folders], [f.path for f in checked.config.folders]):
        yield f"{BATCH} has other folders than the sealed configuration"
    if checked.impossible:
        yield f"{HISTORY} has impossible sums"
    yield from _objections_to_staging(checked) if is_failed_staging else _objections_to_counts(checked)


def _objections_to_staging(checked: CheckedArchive) -> Iterator[str]:
    if checked.attempts:
        yield f"{ATTEMPTS} has rows although the staging of the batch failed"


def _objections_to_counts(checked: CheckedArchive) -> Iterator[str]:
    row, config = checked.batch.batch, checked.config
    if row.status == "COMPLETED" and row.cancelled_at is not None:
        yield f"{BATCH} has a batch that is both completed and cancelled"
    if checked.assigned:
        yield f"{FILES} has files that are not stored"
    if row.total_documents != checked.staged:
        yield f"{BATCH} declares {row.total_documents:,} files, but {FILES} has {checked.staged:,}"
    cells = checked.contents * len(config.connections) * len(config.prompts)
    if row.expected_cells != cells:
        yield f"{BATCH} expects {row.expected_cells or 0:,} evaluations, but its documents make {cells:,}"
    if checked.mismatched:
        yield f"{ATTEMPTS} has current rows for other documents than {FILES}"
