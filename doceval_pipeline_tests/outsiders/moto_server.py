"""The S3 server of moto, in an environment of its own: its dependencies do not fit those of the project."""

import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from doceval_pipeline_tests.documents.s3_server import S3

MOTO = "moto[server]==5.2.5"
# Prints the port once the server listens, and ends with its standard input.
_SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


def install(folder: Path) -> Path:
    """Install moto into a new environment; returns its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install_it = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", MOTO]
    subprocess.run(install_it, check=True, stdout=sys.stderr)
    return python


@contextmanager
def running(python: Path) -> Iterator[S3]:
    """A running server without buckets."""
    with subprocess.Popen(
        [str(python), "-c", _SERVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        yield S3(int(next(line for line in lines if line.strip().isdigit())))
        process.stdin.close()
