"""The commands about archives: archive, restore."""

from dataclasses import asdict
from pathlib import Path

import click

from doceval_pipeline.batches import restoring
from doceval_pipeline.batches.status import batch_progress
from doceval_pipeline.cli.batches import as_json_option, databases
from doceval_pipeline.cli.output import console, print_json
from doceval_pipeline.cli.progress import Bar
from doceval_pipeline.doc_eval.batches import find_batch, partition_key
from doceval_pipeline.reports.numbers import size_text


@click.command()
@click.argument("batch")
@as_json_option
def archive(batch: str, as_json: bool) -> None:
    """Move the closed BATCH out of both databases into one file; restore brings it back.

    The file is read back before anything is removed. Asked again, it finishes what was interrupted.
    """
    from doceval_pipeline.cli.runs import run_in_dagster

    record = find_batch(databases().doc_eval, batch)
    done = run_in_dagster("archive_batch", record.id, quiet=as_json).output_for_node("archive_rows")
    (progress,) = batch_progress(databases(), str(record.id))
    if as_json:
        print_json({**progress.as_json(), "archive": done})
        return
    console.print(
        f"[bold]{record.key}[/] {progress.batch.state}: {done['rows']:,} rows and {done['documents']:,} "
        f"documents in {size_text(done['size'])}"
    )
    console.print(done["path"], markup=False)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@as_json_option
def restore(file: Path, as_json: bool) -> None:
    """Bring the batch in the archive FILE back as it was; the file stays.

    Everything that can be refused is refused before anything is written. Asked again, it finishes
    what was interrupted.
    """
    from doceval_pipeline.cli.runs import restore_and_tell

    opened = databases()
    checking, storing = (
        Bar(what, visible=not as_json) for what in ("reading the archive", "storing documents")
    )
    restored = restore_and_tell(lambda: restoring.restore(opened, file, checking.tell, storing.tell))
    (progress,) = batch_progress(databases(), str(restored.batch_id))
    if as_json:
        print_json({**progress.as_json(), "restored": {**asdict(restored), "path": str(restored.path)}})
        return
    console.print(
        f"[bold]{partition_key(restored.batch_id)}[/] {progress.batch.state}: {restored.rows:,} rows, "
        f"{restored.files:,} files and {restored.documents:,} documents are back, "
        f"{restored.documents_stored:,} of them were not here"
    )


COMMANDS = (archive, restore)
