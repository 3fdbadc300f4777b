"""The commands for the installation itself: init, up, down, env."""

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import click

from doceval_pipeline.cli.collector import importing
from doceval_pipeline.cli.help import command, examples
from doceval_pipeline.cli.options import as_json_option
from doceval_pipeline.cli.output import console, print_json
from doceval_pipeline.errors import DocEvalError
from doceval_pipeline.settings import JSON_LOGS, Settings


@command(epilog=examples("doceval init", "doceval init --roles"))
@click.option("--roles", is_flag=True, help="Also create the database roles and grant them their rights.")
@as_json_option
def init(*, roles: bool, as_json: bool) -> None:
    """Create or upgrade the databases.

    Also prepares Dagster's home. Every other command does the same on first use, except for the roles.
    """
    from doceval_pipeline.batches.databases import dagster_engine, describe_database, open_databases
    from doceval_pipeline.dagster_home.configuration import place_configuration
    from doceval_pipeline.migrations.roles import ROLES, admit_to_dagster, end_idle_transactions, grant_roles
    from doceval_pipeline.migrations.upgrade import Schema

    with importing():
        from doceval_pipeline.defs.engines import require_launcher
        from doceval_pipeline.defs.instance import prepare_dagster_home

    # The variable is for workers, whose databases this command migrates.
    os.environ.pop("DOCEVAL_MIGRATE", None)
    settings = Settings.from_environment()
    require_launcher(settings)
    # All three databases are checked before anything is created in one of them.
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
        from doceval_pipeline.defs.storage import dagster_tables

        grant_roles(opened.doc_eval, Schema.DOC_EVAL)
        grant_roles(opened.knowledge, Schema.KNOWLEDGE)
    # Creates Dagster's tables now, so that they belong to this role and not to the first role that connects.
    prepare_dagster_home(settings)
    if roles:
        admit_to_dagster(dagster, dagster_tables())
    dagster.dispose()
    if as_json:
        print_json(shown | ({"roles": ROLES} if roles else {}))
        return
    for name, value in (shown | (ROLES if roles else {})).items():
        console.print(f"{name:20} {value}", markup=False)
    if roles:
        console.print("next: make your login roles members, for example GRANT doceval_worker TO my_processor")


@command(epilog=examples('eval "$(doceval env)"', 'eval "$(doceval env --plain)"'))
@click.option(
    "--plain", is_flag=True, help="Print the URLs in the form that psql and other languages understand."
)
def env(*, plain: bool) -> None:
    """Print the variables for plain Dagster commands.

    Prints export lines for a shell. A processor finds the queue by the same variables.
    """
    from doceval_pipeline.batches.databases import open_databases, plain_url
    from doceval_pipeline.defs.instance import dagster_environment, prepare_dagster_home
    from doceval_pipeline.embedded.server import EmbeddedServer

    settings = Settings.from_environment()
    open_databases(settings)
    prepare_dagster_home(settings)
    embedded = EmbeddedServer(settings.home)
    for name, value in dagster_environment(settings).items():
        printed = plain_url(value, embedded) if plain and name.endswith("_URL") else value
        # As bytes, because a path may not fit the terminal's encoding.
        click.echo(os.fsencode(f"export {name}={shlex.quote(printed)}"))


@command(epilog=examples("doceval up", "doceval up --port 3001", "doceval up --only daemon"))
@click.option(
    "--port", default=3000, show_default=True, type=click.IntRange(1, 65535), help="Port of the webserver."
)
@click.option(
    "--only",
    type=click.Choice(["webserver", "daemon"]),
    help="Become this one process, for a service manager; needs databases of your own.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address on which --only webserver listens.",
)
def up(*, port: int, only: str | None, host: str) -> None:
    """Run the database server and Dagster until Ctrl-C.

    Dagster's webserver shows batches and runs; its daemon stages batches, watches results and writes reports.
    The database server runs only if one of the three databases is on it.
    """
    from doceval_pipeline.cli.supervision.supervisor import Supervisor

    if host != "127.0.0.1" and only != "webserver":
        raise click.UsageError("--host goes with --only webserver")
    settings = Settings.from_environment()
    with _as_log_lines(settings) as say:
        if only is not None:
            from doceval_pipeline.cli.supervision.single import become

            become(settings, only, host, port)
        # Ctrl-C and doceval down are the usual ways to end it, not failures.
        with suppress(KeyboardInterrupt), Supervisor(settings, "doceval up", port) as supervisor:
            supervisor.start_daemon()
            url = supervisor.start_webserver()
            say(f"Dagster is at {url}; Ctrl-C or doceval down stops it")
            supervisor.watch()
        say("stopped")


@contextmanager
def _as_log_lines(settings: Settings) -> Iterator[Callable[[str], None]]:
    """Yield a function that prints a line in the format of the logs; print errors in it, too."""
    if settings.log_format != JSON_LOGS:
        yield partial(console.print, markup=False)
        return
    from doceval_pipeline.defs.json_logs import line

    try:
        yield lambda text: click.echo(line("INFO", text))
    except DocEvalError as error:
        click.echo(line("ERROR", str(error)), err=True)
        raise SystemExit(1) from None


@command(epilog=examples("doceval down"))
def down() -> None:
    """Stop what up or demo started.

    Also stops the embedded database server, and processes that remain after doceval up or doceval demo was
    killed.
    """
    from doceval_pipeline.cli.supervision.supervisor import stop_all

    stopped = stop_all(Settings.from_environment())
    names = ", ".join(name if count == 1 else f"{count} {name}s" for name, count in stopped.items())
    console.print(f"stopped: {names}" if stopped else "nothing was running")
