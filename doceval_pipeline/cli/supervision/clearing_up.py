"""Run as a module: ends processes of a killed supervisor, unless another supervisor uses its home now.

With the argument `server` it also stops the embedded server.
"""

import sys
from contextlib import ExitStack, suppress

from doceval_pipeline.cli.supervision.home_lock import HomeLock
from doceval_pipeline.cli.supervision.strays import end, roots, strays
from doceval_pipeline.embedded.server import EmbeddedServer
from doceval_pipeline.errors import ConfigurationError
from doceval_pipeline.settings import Settings


def main() -> None:
    """Clear up after the supervisor whose home is in the environment."""
    home = Settings.from_environment().home
    with ExitStack() as exits:
        # A home that was removed has no lock, but may still have processes.
        with suppress(OSError):
            exits.enter_context(HomeLock(home, "clearing up"))
        end(roots(strays(home)))
        if "server" in sys.argv[1:]:
            EmbeddedServer(home).stop()


if __name__ == "__main__":
    # Another supervisor has ended these processes itself.
    with suppress(ConfigurationError):
        main()
