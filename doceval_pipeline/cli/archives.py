"""The commands about archives: archive, restore."""

from dataclasses import asdict
from pathlib import Path

import click
from rich.markup import escape

from doceval_pipeline.batches import restoring
from doceval_pipeline.batches.status import batch_progress
from doceval_pipeline.cli.bars import bars
from doceval_pipeline.cli.batches import as_json_option, databases
from doceval_pipeline.cli.output import console, print_json
from doceval_pipeline.cli.selection import Done, act_on_each, select, several_batches
from doceval_pipeline.doc_eval.batches import BatchRecord, partition_key
from doceval_pipeline.paths import file_path
from doceval_pipeline.reports.numbers import size_text


@click.command()
@several_batches
@as_json_option
def archive(batches: tuple[str, ...], as_json: bool) -> None:
    """Move each closed BATCH out of both databases into one file; restore brings it back.

    BATCH is a number, a name, or a quoted pattern such as 'contracts-*'. The file is read back before
    anything is removed. Asked again, it finishes what was interrupted.
    """
    from doceval_pipeline.cli.runs import open_job

    selection = select(databases().doc_eval, batches, with_archived=True)

    def archive_one(batch: BatchRecord) -> Done:
        done = run(batch.id).output_for_node("archive_rows")
        (progress,) = batch_progress(databases(), str(batch.id))
        counts = {name: done[name] for name in ("rows", "documents")}
        line = (
            f"[bold]{batch.key}[/] {progress.batch.state}: {done['rows']:,} rows and {done['documents']:,} "
            f"documents in {size_text(done['size'])}\n{escape(done['path'])}"
        )
        return Done(line, {**progress.as_json(), "archive": done}, counts)

    with open_job("archive_batch", [batch.id for batch in selection.batches], quiet=as_json) as run:
        act_on_each(selection, archive_one, as_json)


@click.command()
@click.argument("file", type=file_path)
@as_json_option
def restore(file: Path, as_json: bool) -> None:
    """Bring the batch in the archive FILE back as it was; the file stays.

    Everything that can be refused is refused before anything is written. Asked again, it finishes
    what was interrupted.
    """
    from doceval_pipeline.cli.runs import restore_and_tell

    opened = databases()
    with bars(visible=not as_json) as draw:
        checking, storing = draw("reading the archive"), draw("storing documents")
        restored = restore_and_tell(lambda: restoring.restore(opened, file, checking, storing))
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
