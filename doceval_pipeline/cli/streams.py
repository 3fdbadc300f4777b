"""Standard output and standard error, where no failure to write interrupts what is being done.

A command that changes something goes on where nobody reads what it prints, or where there is no room for it;
that its output is not whole is said at its end. The streams also work where they were closed from the start.
"""

import errno
import io
import os
import select
import sys
from typing import Any

from doceval_pipeline.cli.output import fail

# What shells show for a program that SIGPIPE ended.
BROKEN_PIPE = 141


class LastingStream(io.RawIOBase):
    """A file descriptor; after the first failure to write to it, which is kept, it takes everything."""

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
        """It is for writing alone."""
        return True

    def is_lost(self) -> bool:
        """Whether what is written reaches nobody; the reader of a pipe may go without a write that fails."""
        poll = select.poll()
        poll.register(self._number, 0)
        if self.failure is None and any(event & select.POLLERR for _, event in poll.poll(0)):
            self.failure = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        return self.failure is not None

    def write(self, data: Any) -> int:
        """Write what there is room for, and wait for room where others made the descriptor non-blocking."""
        while self.failure is None:
            try:
                return os.write(self._number, data)
            except BlockingIOError:
                select.select([], [self._number], [])
            except OSError as error:
                self.failure = error
        return len(data)


def lasting_streams() -> LastingStream:
    """Put both streams on descriptors that last; the one of standard output.

    What the encoding of a terminal does not have is shown as `?`.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # It would become the number of the next file that is opened. Not for writing, which must fail.
            os.open(os.devnull, os.O_RDONLY)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 # for as long as the process lives
    sys.stderr = text_on(LastingStream(2), like=sys.stderr)
    output = LastingStream(1)
    sys.stdout = text_on(output, like=sys.stdout)
    return output


def is_output_lost() -> bool:
    """Whether what is printed reaches nobody: a write has failed, or the reader of the pipe is gone."""
    stream = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(stream, LastingStream) and stream.is_lost()


def exit_code(output: LastingStream, code: int) -> int:
    """The exit code of a command that ended with `code`; says so where its output is not whole."""
    sys.stdout.flush()
    if output.failure is None:
        return code
    if output.failure.errno == errno.EPIPE:
        # As of every program in a pipe whose reader has enough.
        return code or BROKEN_PIPE
    reason = "it is closed" if output.failure.errno == errno.EBADF else output.failure.strerror
    fail(f"cannot write the output: {reason}")
    return code or 1


def text_on(stream: LastingStream, like: Any) -> io.TextIOWrapper:
    """A text stream in the encoding of another one, which is None where its descriptor was closed."""
    return io.TextIOWrapper(
        io.BufferedWriter(stream),
        encoding=getattr(like, "encoding", "utf-8"),
        errors="replace",
        line_buffering=getattr(like, "line_buffering", False),
        write_through=getattr(like, "write_through", False),
    )
