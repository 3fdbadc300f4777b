"""The commands about the installation itself: init, up, down, env."""

import os
import shlex
from contextlib import suppress
from typing import Any

import click

from doceval_pipeline.batches.databases import dagster_engine, describe_database, open_databases, plain_url
from doceval_pipeline.cli.output import console, print_json
from doceval_pipeline.cli.supervisor import Supervisor, stop_all
from doceval_pipeline.dagster_home.configuration import place_configuration
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.migrations.roles import (
    ROLES,
    admit_to_dagster,
    end_idle_transactions,
    grant_roles,
)
from doceval_pipeline.migrations.upgrade import Schema
from doceval_pipeline.settings import Settings


@click.command()
@click.option("--roles", is_flag=True, help="Also create the roles, and give each what it may do.")
@click.option("--json", "as_json", is_flag=True, help="Print data for other programs.")
def init(roles: bool, as_json: bool) -> None:
    """Create or upgrade both databases and Dagster's home; also happens on first use of anything else."""
    settings = Settings.from_environment()
    # All three are looked at before anything is made in one of them.
    dagster = dagster_engine(settings)
    opened = open_databases(settings)
    shown: dict[str, Any] = {
        "home": str(opened.settings.home),
        "dagster.yaml": str(place_configuration(opened.settings).resolve()),
        "doc_eval": describe_database(opened.doc_eval),
        "KnowledgeDocuments": describe_database(opened.knowledge),
    }
    for engine in (opened.doc_eval, opened.knowledge):
        end_idle_transactions(engine)
    if roles:
        # Dagster takes half a second to import.
        from doceval_pipeline.defs.instance import prepare_dagster_home
        from doceval_pipeline.defs.storage import dagster_tables

        grant_roles(opened.doc_eval, Schema.DOC_EVAL)
        grant_roles(opened.knowledge, Schema.KNOWLEDGE)
        # Its tables are made now, so that they belong to this role and not to whoever comes first.
        prepare_dagster_home(settings)
        admit_to_dagster(dagster, dagster_tables())
    dagster.dispose()
    if as_json:
        print_json(shown | ({"roles": ROLES} if roles else {}))
        return
    for name, value in (shown | (ROLES if roles else {})).items():
        console.print(f"{name:20} {value}", markup=False)
    if roles:
        console.print("next: make your login roles members, such as GRANT doceval_worker TO my_processor")


@click.command()
@click.option(
    "--plain", is_flag=True, help="Write the URLs as psql and processors in other languages read them."
)
def env(plain: bool) -> None:
    """Print the exports under which plain Dagster commands work: eval "$(doceval env)".

    They tell a processor where the queue is, too.
    """
    from doceval_pipeline.defs.instance import dagster_environment, prepare_dagster_home

    settings = Settings.from_environment()
    open_databases(settings)
    prepare_dagster_home(settings)
    embedded = EmbeddedServer(settings.home)
    for name, value in dagster_environment(settings).items():
        written = plain_url(value, embedded) if plain and name.endswith("_URL") else value
        # As bytes: a path is not what a terminal's encoding makes of it.
        click.echo(os.fsencode(f"export {name}={shlex.quote(written)}"))


@click.command()
@click.option(
    "--port", default=3000, show_default=True, type=click.IntRange(1, 65535), help="Of the webserver."
)
def up(port: int) -> None:
    """Run the database server, Dagster's webserver and its daemon until Ctrl-C."""
    settings = Settings.from_environment()
    # Ctrl-C and doceval down are the ways to end it, and no failure.
    with suppress(KeyboardInterrupt), Supervisor(settings, "doceval up", port) as supervisor:
        supervisor.start_daemon()
        url = supervisor.start_webserver()
        console.print(f"Dagster is at [bold]{url}[/]; Ctrl-C or doceval down stops it")
        supervisor.watch()
    console.print("stopped")


@click.command()
def down() -> None:
    """Stop what `doceval up` or `doceval demo` started, also where it was killed, and the embedded server."""
    stopped = stop_all(Settings.from_environment())
    said = ", ".join(name if count == 1 else f"{count} {name}s" for name, count in stopped.items())
    console.print(f"stopped: {said}" if stopped else "nothing was running")


COMMANDS = (init, up, down, env)
