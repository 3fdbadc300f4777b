"""Run as a module: ends what a supervisor left that was killed, unless another one has taken its home over.

With the argument `server` it stops the embedded server too.
"""

import sys
from contextlib import ExitStack, suppress

from doceval_pipeline.cli.home_lock import HomeLock
from doceval_pipeline.cli.strays import end, roots, strays
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings


def main() -> None:
    """Clear up; the supervisor's home is in the environment."""
    home = Settings.from_environment().home
    with ExitStack() as exits:
        # A home that was removed has no lock, and processes all the same.
        with suppress(OSError):
            exits.enter_context(HomeLock(home, "clearing up"))
        end(roots(strays(home)))
        if "server" in sys.argv[1:]:
            EmbeddedServer(home).stop()


if __name__ == "__main__":
    # Another supervisor has ended everything itself.
    with suppress(ConfigurationError):
        main()
