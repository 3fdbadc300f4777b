"""Options and arguments that several commands share."""

from collections.abc import Callable

import click

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for other programs.")
several_batches = click.argument("batches", nargs=-1, required=True, metavar="BATCH...")


def reprocess_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that choose what is reprocessed, for `reprocess` and `plan`."""
    for option in (
        click.option("--rescan", is_flag=True, help="First rescan the folders."),
        click.option(
            "--all", "mode", flag_value="all", help="Also queue a new attempt for each finished evaluation."
        ),
        click.option(
            "--failed",
            "mode",
            flag_value="failed",
            help="Also queue a new attempt for each failed evaluation.",
        ),
    ):
        command = option(command)
    return command
