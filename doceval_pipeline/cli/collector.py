"""Python's garbage collector in the process of a command.

Importing Dagster creates half a million objects that live until the end. By default they are traversed again
and again while they are imported, and once more when the process ends, which together take a third of the CPU
time of `doceval stage`.
"""

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Do not collect while modules are imported, and never traverse their objects afterwards."""
    was_enabled, modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:
            gc.freeze()
        if was_enabled:
            gc.enable()


def end_without_collecting() -> None:
    """Leave cycles uncollected when the process ends; the system takes their memory back.

    Whatever must be closed is closed by context managers or by functions of `atexit`, which run before this
    one if they are registered after it.
    """
    atexit.register(gc.freeze)
