"""Run as a script: waits until its starter has ended, then becomes the program it is told to start.

Its standard input ends with the starter. Small, because it waits as long as that lives.
"""

import os
import sys

if __name__ == "__main__":
    sys.stdin.buffer.read()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - no shell is wanted
