"""Script that waits until the process that started it has ended, then runs the given command.

Its standard input closes when that process ends. It imports little, because it waits all that time.
"""

import os
import sys

if __name__ == "__main__":
    sys.stdin.buffer.read()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - without a shell
