"""Replaces this process by one process of Dagster, for systemd, containers and other service managers.

They start, stop and restart processes and collect their logs themselves, so that nothing is supervised here.
"""

import os
import sys
from typing import NoReturn

from doceval_pipeline.batches.databases import embedded_databases, open_databases
from doceval_pipeline.cli.supervision.supervisor import (
    daemon_command,
    environment_of,
    one_line,
    webserver_command,
)
from doceval_pipeline.dagster_home.configuration import require_limits
from doceval_pipeline.embedded.server import make_folder
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import JSON_LOGS, Settings


def become(settings: Settings, role: str, host: str, port: int) -> NoReturn:
    """Prepare the databases and Dagster's home, and become the `webserver` or the `daemon`.

    Raises
    ------
    ConfigurationError
        One of the databases is on the embedded server, or a setting cannot be used.
    DatabaseError
        As `open_databases`.
    """
    from doceval_pipeline.defs.instance import prepare_dagster_home
    from doceval_pipeline.defs.schedules import schedules

    if settings.log_format == JSON_LOGS:
        # Preparing the databases may log, too.
        from doceval_pipeline.defs import json_logs

        json_logs.install()
    missing = embedded_databases(settings)
    if missing:
        raise ConfigurationError(
            f"doceval up --only {role} needs databases of your own: set {' and '.join(missing)}, or run "
            "doceval up, which runs the embedded server"
        )
    schedules(settings)
    _ = settings.owners, settings.ui_hosts
    require_limits(os.environ)
    with one_line(settings.home):
        make_folder(settings.home)
        open_databases(settings)
        workspace = prepare_dagster_home(settings)
        os.chdir(settings.home)
    daemon = daemon_command(settings, workspace)
    command = daemon if role == "daemon" else webserver_command(settings, workspace, host, port)
    sys.stdout.flush()
    os.execve(command[0], command, environment_of(settings))  # noqa: S606 - no shell is needed
