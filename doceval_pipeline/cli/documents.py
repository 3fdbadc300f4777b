"""`doceval documents`: the files of a batch."""

import click

from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import print_json, print_table
from doceval_pipeline.reports.formatting import size_text


@command(epilog=examples("doceval documents 1", "doceval documents 'contracts 2026' --json"))
@click.argument("batch")
@as_json_option
def documents(*, batch: str, as_json: bool) -> None:
    """List the files of a batch.

    Shows state, reason, size, sha256 and content type of every file. BATCH is a number or a name.
    """
    from doceval_pipeline.doc_eval.batches import find_batch
    from doceval_pipeline.doc_eval.file_listing import list_batch_files

    opened = databases()
    record = find_batch(opened.doc_eval, batch)
    record.require_rows()
    with opened.doc_eval.connect() as connection:
        files = list(list_batch_files(connection, record.id))
    if as_json:
        print_json([file.as_json() for file in files])
        return
    # Two folders may contain files of the same name.
    has_several_folders = len({file.folder for file in files}) > 1
    print_table(
        ("file", "state", "size", "sha256", "content type"),
        [
            (
                f"{f.folder}/{f.path}" if has_several_folders else f.path,
                f"{f.state}: {f.reason}" if f.reason else f.state,
                None if f.size is None else size_text(f.size),
                f.sha256 and f.sha256[:8],
                f.content_type,
            )
            for f in files
        ],
        title=f"{record.key} {record.name}: {len(files):,} files",
    )
