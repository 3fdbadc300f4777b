"""The commands about the installation itself: init, up, down, env."""

import os
import shlex
import signal
from contextlib import suppress
from typing import Any

import click

from doceval_pipeline.batches.databases import describe_database, open_databases
from doceval_pipeline.cli.output import console, print_json
from doceval_pipeline.cli.supervisor import Supervisor
from doceval_pipeline.dagster_home.configuration import place_configuration
from doceval_pipeline.migrations.roles import ROLES, grant_roles
from doceval_pipeline.migrations.upgrade import Schema
from doceval_pipeline.settings import Settings


@click.command()
@click.option("--roles", is_flag=True, help="Also create the roles, and give each what it may do.")
@click.option("--json", "as_json", is_flag=True, help="Print data for other programs.")
def init(roles: bool, as_json: bool) -> None:
    """Create or upgrade both databases and Dagster's home; also happens on first use of anything else."""
    opened = open_databases(Settings.from_environment())
    shown: dict[str, Any] = {
        "home": str(opened.settings.home),
        "dagster.yaml": str(place_configuration(opened.settings).resolve()),
        "doc_eval": describe_database(opened.doc_eval),
        "KnowledgeDocuments": describe_database(opened.knowledge),
    }
    if roles:
        grant_roles(opened.doc_eval, Schema.DOC_EVAL)
        grant_roles(opened.knowledge, Schema.KNOWLEDGE)
    if as_json:
        print_json(shown | ({"roles": ROLES} if roles else {}))
        return
    for name, value in (shown | (ROLES if roles else {})).items():
        console.print(f"{name:20} {value}", markup=False)
    if roles:
        console.print("next: make your login roles members, such as GRANT doceval_worker TO my_processor")


@click.command()
def env() -> None:
    """Print the exports under which plain Dagster commands work: eval "$(doceval env)"."""
    from doceval_pipeline.defs.instance import dagster_environment, prepare_dagster_home

    settings = Settings.from_environment()
    open_databases(settings)
    prepare_dagster_home(settings)
    for name, value in dagster_environment(settings).items():
        # As bytes: a path is not what a terminal's encoding makes of it.
        click.echo(os.fsencode(f"export {name}={shlex.quote(value)}"))


@click.command()
@click.option(
    "--port", default=3000, show_default=True, type=click.IntRange(1, 65535), help="Of the webserver."
)
def up(port: int) -> None:
    """Run the database server, Dagster's webserver and its daemon until Ctrl-C."""
    settings = Settings.from_environment()
    # Named too, because a shell script starts what it leaves in the background with Ctrl-C ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    with Supervisor(settings) as supervisor:
        supervisor.start_daemon()
        supervisor.start_webserver(port)
        console.print(f"Dagster is at [bold]http://127.0.0.1:{port}[/]; Ctrl-C or doceval down stops it")
        # Ctrl-C and doceval down are the ways to end it, and no failure.
        with suppress(KeyboardInterrupt):
            supervisor.watch()
    console.print("stopped")


@click.command()
def down() -> None:
    """Stop what `doceval up` started, and the embedded server."""
    settings = Settings.from_environment()
    stopped = Supervisor(settings).stop_other()
    console.print("stopped" if stopped else "nothing was running")


COMMANDS = (init, up, down, env)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
