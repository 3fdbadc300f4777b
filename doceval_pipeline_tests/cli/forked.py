"""Runs commands one after the other, each in a fork of a process that has imported everything already.

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
import termios
from collections.abc import Sequence
from dataclasses import dataclass

TERMINAL = "terminal-"


@dataclass(frozen=True)
class Ended:
    """What a command said on standard error, or in its terminal, and its exit code."""

    code: int
    said: str


def run_forked(kind: str, commands: Sequence[Sequence[str]], **environment: str) -> list[Ended]:
    """Run commands; nothing of them is read but standard error."""
    ended = subprocess.run(
        [sys.executable, "-m", __name__, kind, json.dumps([list(command) for command in commands])],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={**os.environ, "TERM": "xterm", **environment},
    )
    return [Ended(**one) for one in json.loads(ended.stdout)]


def _forked(kind: str, arguments: list[str]) -> Ended:
    ours, theirs = pty.openpty() if kind.startswith(TERMINAL) else os.pipe()
    if kind.startswith(TERMINAL):
        size = struct.pack("HHHH", 24, int(kind.removeprefix(TERMINAL)), 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    child = os.fork()
    if child == 0:
        os.close(ours)
        os.dup2(theirs, 2)
        _give_output(kind, theirs)
        from doceval_pipeline.cli import main

        sys.argv = ["doceval", *arguments]
        try:
            main()
        except SystemExit as ended:
            # The end of an interpreter that has loaded Dagster takes longer than most commands.
            os._exit(int(ended.code or 0))
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError:
        pass  # how Linux tells the end of a terminal
    os.close(ours)
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode())


def _give_output(kind: str, theirs: int) -> None:
    if kind == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif kind == "closed":
        os.close(1)
    elif kind == "pipe":
        unread, output = os.pipe()
        os.close(unread)
        os.dup2(output, 1)
    else:
        os.dup2(theirs, 1)


if __name__ == "__main__":
    # What the commands load, so that each fork has it.

    os.environ.pop("COLUMNS", None)
    results = [_forked(sys.argv[1], arguments) for arguments in json.loads(sys.argv[2])]
    print(json.dumps([vars(ended) for ended in results]))
