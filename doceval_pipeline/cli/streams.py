"""Standard output and standard error whose write errors never interrupt a command.

A command that changes something continues when the reader of its output is gone or the disk is full; at its
end it reports that its output is incomplete. The streams also work if they were closed from the start.
"""

import errno
import io
import os
import select
import sys
from typing import Any

# The exit code that shells show for a program that SIGPIPE ended.
BROKEN_PIPE = 141


class LastingStream(io.RawIOBase):
    """A file descriptor that keeps its first write error, and from then on discards all output."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.failure: OSError | None = None

    def fileno(self) -> int:
        """The descriptor."""
        return self._number

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._number)

    def writable(self) -> bool:
        """True: it is for writing only."""
        return True

    def is_lost(self) -> bool:
        """Whether output is lost; the reader of a pipe may end without any failed write."""
        poll = select.poll()
        poll.register(self._number, 0)
        if self.failure is None and any(event & select.POLLERR for _, event in poll.poll(0)):
            self.failure = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        return self.failure is not None

    def write(self, data: Any) -> int:
        """Write as much as fits; wait for room if another program made the descriptor non-blocking."""
        while self.failure is None:
            try:
                return os.write(self._number, data)
            except BlockingIOError:
                select.select([], [self._number], [])
            except OSError as error:
                self.failure = error
        return len(data)


def lasting_streams() -> LastingStream:
    """Replace both streams by lasting ones; returns the one of standard output.

    Characters that the terminal's encoding lacks are written as `?`.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The next opened file would get this number. Read-only, because writing must fail.
            os.open(os.devnull, os.O_RDONLY)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 # open until the process ends
    sys.stderr = text_on(LastingStream(2), like=sys.stderr)
    output = LastingStream(1)
    sys.stdout = text_on(output, like=sys.stdout)
    return output


def is_output_lost() -> bool:
    """Whether standard output is lost: a write has failed, or the reader of the pipe has ended."""
    stream = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(stream, LastingStream) and stream.is_lost()


def exit_code(output: LastingStream, code: int) -> int:
    """The exit code of a command that ended with `code`; reports incomplete output."""
    sys.stdout.flush()
    if output.failure is None:
        return code
    if output.failure.errno == errno.EPIPE:
        # As for every program in a pipe whose reader has read enough.
        return code or BROKEN_PIPE
    from doceval_pipeline.cli.output import fail

    reason = "it is closed" if output.failure.errno == errno.EBADF else output.failure.strerror
    fail(f"cannot write the output: {reason}")
    return code or 1


def text_on(stream: LastingStream, like: Any) -> io.TextIOWrapper:
    """A text stream in the encoding of another one, which is None if its descriptor was closed."""
    return io.TextIOWrapper(
        io.BufferedWriter(stream),
        encoding=getattr(like, "encoding", "utf-8"),
        errors="replace",
        line_buffering=getattr(like, "line_buffering", False),
        write_through=getattr(like, "write_through", False),
    )
