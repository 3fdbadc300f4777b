"""What an archive of another installation must not say, besides what no archive may.

A batch that comes from elsewhere is done and asks for nothing: what an archive of our own may hold besides
was here before.
"""

from collections.abc import Iterator

from doceval_pipeline.archives.checking import Checked, same
from doceval_pipeline.archives.format import (
    ATTEMPTS,
    BATCH,
    DOCS,
    FILES,
    HISTORY,
    LARGEST_FOREIGN_NUMBER,
    LARGEST_FOREIGN_ROW_ID,
)


def objection(checked: Checked) -> str | None:
    """Why a batch that was archived elsewhere cannot come here: the member, and what is wrong; or None."""
    return next(_objections(checked), None)


def _objections(checked: Checked) -> Iterator[str]:
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
        yield f"{BATCH} asks for its staging"
    sealed = checked.config.batch
    said = (row.description, row.meta_data, row.include_patterns, row.exclude_patterns)
    if not same(list(said), [sealed.description, sealed.metadata, sealed.include, sealed.exclude]):
        yield f"{BATCH} says something else of the batch than was sealed"
    if not same([f.folder_path for f in batch.folders], [f.path for f in checked.config.folders]):
        yield f"{BATCH} has other folders than were sealed"
    if checked.impossible:
        yield f"{HISTORY} has sums that no work can have left"
    yield from _objections_to_staging(checked) if is_failed_staging else _objections_to_counts(checked)


def _objections_to_staging(checked: Checked) -> Iterator[str]:
    if checked.attempts:
        yield f"{ATTEMPTS} has rows, and the staging of the batch failed"


def _objections_to_counts(checked: Checked) -> Iterator[str]:
    row, config = checked.batch.batch, checked.config
    if row.status == "COMPLETED" and row.cancelled_at is not None:
        yield f"{BATCH} is of a batch that is completed and cancelled"
    if checked.assigned:
        yield f"{FILES} has files that are not stored"
    if row.total_documents != checked.staged:
        yield f"{BATCH} tells of {row.total_documents:,} files, and {FILES} has {checked.staged:,}"
    cells = checked.contents * len(config.connections) * len(config.prompts)
    if row.expected_cells != cells:
        yield f"{BATCH} expects {row.expected_cells or 0:,} cells, and its documents have {cells:,}"
    if checked.strays:
        yield f"{ATTEMPTS} has current rows of other documents than {FILES}"
