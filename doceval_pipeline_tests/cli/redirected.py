"""Runs commands one after the other in one process of their own, which imports everything but once.

Standard output of each is of one kind: `full` has no room, `pipe` has no reader, `closed` is closed, and
`terminal-N` is a terminal of N columns, as is standard error then.
"""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Sequence
from dataclasses import dataclass

TERMINAL = "terminal-"


@dataclass(frozen=True)
class Ended:
    """What a command said on standard error, or in its terminal, and its exit code."""

    code: int
    said: str


def run_redirected(kind: str, commands: Sequence[Sequence[str]], **environment: str) -> list[Ended]:
    """Run commands; nothing of them is read but standard error."""
    with tempfile.NamedTemporaryFile("r") as results:
        given = json.dumps([list(command) for command in commands])
        subprocess.run(
            [sys.executable, "-m", __name__, kind, given, results.name],
            timeout=300,
            check=True,
            env={**os.environ, "TERM": "xterm", **environment},
        )
        return [Ended(**one) for one in json.load(results)]


def _run(kind: str, arguments: list[str]) -> Ended:
    from doceval_pipeline.cli import main

    kept = [os.dup(number) for number in (1, 2)]
    ours, theirs = pty.openpty() if kind.startswith(TERMINAL) else os.pipe()
    os.dup2(theirs, 2)
    _give_output(kind, theirs)
    os.close(theirs)
    said: list[bytes] = []
    reader = threading.Thread(target=_read, args=(ours, said))
    reader.start()
    sys.argv = ["doceval", *arguments]
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    for number, before in zip((1, 2), kept, strict=True):
        os.dup2(before, number)
        os.close(before)
    reader.join()
    os.close(ours)
    return Ended(code, b"".join(said).decode())


def _give_output(kind: str, theirs: int) -> None:
    if kind == "full":
        opened = os.open("/dev/full", os.O_WRONLY)
    elif kind == "pipe":
        unread, opened = os.pipe()
        os.close(unread)
    elif kind == "closed":
        os.close(1)
        return
    else:
        size = struct.pack("HHHH", 24, int(kind.removeprefix(TERMINAL)), 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        opened = os.dup(theirs)
    os.dup2(opened, 1)
    os.close(opened)


def _read(number: int, said: list[bytes]) -> None:
    try:
        while piece := os.read(number, 65536):
            said.append(piece)
    except OSError:
        return  # how Linux tells the end of a terminal


if __name__ == "__main__":
    os.environ.pop("COLUMNS", None)
    wanted, given, path = sys.argv[1:]
    answers = [_run(wanted, arguments) for arguments in json.loads(given)]
    with open(path, "w") as file:
        json.dump([vars(ended) for ended in answers], file)
