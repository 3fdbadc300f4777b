"""Dagster's daemon with this project's logs. Run as a module, with the arguments of `dagster-daemon`."""

import sys

from dagster._daemon.cli import main as dagster_daemon

from doceval_pipeline.defs import json_logs
from doceval_pipeline.errors import ConfigurationError


def main() -> None:
    """Start the daemon as the command dagster-daemon does."""
    try:
        json_logs.install()
    except ConfigurationError as error:
        sys.exit(str(error))
    dagster_daemon()


if __name__ == "__main__":
    main()
