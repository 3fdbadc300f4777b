"""Commands for archives: archive, restore."""

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from doceval_pipeline.cli.bars import bars
from doceval_pipeline.cli.collector import importing
from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.installation import databases
from doceval_pipeline.cli.options import as_json_option, several_batches
from doceval_pipeline.cli.output import console, print_json, print_table
from doceval_pipeline.cli.selection import ActionResult, act_on_each, select
from doceval_pipeline.names import printable
from doceval_pipeline.paths import file_path
from doceval_pipeline.reports.formatting import size_text

if TYPE_CHECKING:
    from doceval_pipeline.batches.archiving import restore as restoring
    from doceval_pipeline.doc_eval.batches import BatchRecord


@command(epilog=examples("doceval archive 1", "doceval archive 'contracts-*'"))
@several_batches
@as_json_option
def archive(*, batches: tuple[str, ...], as_json: bool) -> None:
    """Move closed batches into archive files.

    Moves each closed BATCH out of both databases into a file of its own; doceval restore brings it back.
    BATCH is a number, a name, or a quoted pattern such as 'contracts-*'. Each file is read back before
    anything is removed. Run the command again to complete an interrupted archive.
    """
    from doceval_pipeline.batches.monitoring.status import batch_progress

    with importing():
        from doceval_pipeline.cli.runs import open_job

    selection = select(databases().doc_eval, batches, with_archived=True)

    def archive_one(batch: "BatchRecord") -> ActionResult:
        done = run(batch.id).output_for_node("archive_rows")
        progress = batch_progress(databases(), str(batch.id))
        counts = {name: done[name] for name in ("rows", "documents")}
        line = (
            f"[bold]{batch.key}[/] {progress.batch.state}: {done['rows']:,} rows and {done['documents']:,} "
            f"documents in {size_text(done['size'])}\n{escape(done['path'])}"
        )
        return ActionResult(line, {**progress.as_json(), "archive": done}, counts)

    with open_job("archive_batch", [batch.id for batch in selection.batches], quiet=as_json) as run:
        act_on_each(selection, archive_one, as_json=as_json)


@command(epilog=examples("doceval restore batch-000001.zip"))
@click.argument("file", type=file_path)
@click.option(
    "--accept-connections",
    is_flag=True,
    help="Accept new or different connections and folders of the archive without asking.",
)
@as_json_option
def restore(*, file: Path, accept_connections: bool, as_json: bool) -> None:
    """Restore a batch from its archive file.

    The batch in FILE is restored unchanged, and FILE is kept.

    An archive of another installation is shown first: the
    batch, its folders, and its connections, to which documents and keys are sent. Connections and folders
    that are new here, and connections that differ, must be accepted.

    The whole archive is checked before anything is written. Run the command again to complete an interrupted
    restore.
    """
    from doceval_pipeline.batches.archiving import restore as restoring
    from doceval_pipeline.batches.monitoring.status import batch_progress
    from doceval_pipeline.doc_eval.batches import partition_key

    with importing():
        from doceval_pipeline.cli.runs import restore_and_report

    opened = databases()
    with ExitStack() as stack:
        with bars(visible=not as_json) as draw:
            incoming = stack.enter_context(restoring.open_incoming(opened, file, draw("reading the archive")))
        if not incoming.is_own and not as_json:
            _show(incoming)
        accepted = accept_connections or (not as_json and _accepted(incoming))
        with bars(visible=not as_json) as draw:
            storing = draw("storing documents")
            restored = restore_and_report(
                lambda: restoring.restore(opened, incoming, storing, accept_connections=accepted)
            )
    progress = batch_progress(databases(), str(restored.batch_id))
    if as_json:
        print_json({**progress.as_json(), "restored": {**asdict(restored), "path": str(restored.path)}})
        return
    console.print(
        f"[bold]{partition_key(restored.batch_id)}[/] {progress.batch.state}: {restored.rows:,} rows, "
        f"{restored.files:,} files and {restored.documents:,} documents restored; "
        f"{restored.documents_stored:,} documents were missing"
    )


def _show(incoming: "restoring.IncomingArchive") -> None:
    """Print the contents of an archive of another installation."""
    from doceval_pipeline.batches.archiving import restore as restoring
    from doceval_pipeline.doc_eval.batches import partition_key

    manifest, checked = incoming.archive.manifest, incoming.checked
    console.print(
        f"[bold]{partition_key(incoming.batch_id)}[/] {escape(printable(manifest.name))}: archived "
        f"{manifest.archived_at[:19]} UTC by doceval {escape(manifest.doceval)} in another installation; "
        f"{checked.attempts:,} rows, {checked.files:,} files, {checked.documents:,} documents"
    )
    print_table(
        ("connection", "provider", "model", "sends to", "key variable", "settings", "here"),
        [
            (
                one.name,
                one.provider_type,
                one.model_name,
                one.address,
                one.api_key_env,
                restoring.shorten(json.dumps(one.connection_config, ensure_ascii=False))
                if one.connection_config
                else None,
                one.difference or "the same",
            )
            for one in incoming.connections
        ],
        optional=("settings",),
    )
    for path in incoming.new_folders:
        console.print(f"new folder: {escape(printable(restoring.shorten(path)))}")


def _accepted(incoming: "restoring.IncomingArchive") -> bool:
    """Whether the user accepts new or different connections and folders at the terminal."""
    if not incoming.must_be_accepted or not (sys.stdin.isatty() and console.is_terminal):
        return False
    return click.confirm(
        "Reprocessing this batch reads the folders above and sends documents, and the API keys in the "
        "variables above, to the addresses above. Restore it?"
    )
