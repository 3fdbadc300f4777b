"""Writers that do not rest, for tests of reading: a version of a file says what it is, a mixture does not.

A version is the sha256 of its body, in hex, and the body.
"""

import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Longer than a piece that is read at once, so that a version is read in several.
LARGEST = 1_500_000
CHUNK = 100_000


def version(chance: random.Random) -> bytes:
    """A new version, of any size from 100 to 1,500 kB."""
    body = chance.randbytes(1) * chance.randrange(CHUNK, LARGEST) + chance.randbytes(8)
    return hashlib.sha256(body).hexdigest().encode() + body


def is_whole(content: bytes) -> bool:
    """Whether this is one version, from its first byte to its last."""
    return hashlib.sha256(content[64:]).hexdigest().encode() == content[:64]


def rewrite_in_place(path: Path, content: bytes, pause: Callable[[], None]) -> None:
    """Over what is there, a chunk at a time; what is left behind the new end is cut off last."""
    with path.open("r+b", buffering=0) as file:
        for begin in range(0, len(content), CHUNK):
            file.write(content[begin : begin + CHUNK])
            pause()
        file.truncate()


def write_anew(path: Path, content: bytes, pause: Callable[[], None]) -> None:
    """Cut to nothing and filled again, as most programs save."""
    with path.open("wb", buffering=0) as file:
        for begin in range(0, len(content), CHUNK):
            file.write(content[begin : begin + CHUNK])
            pause()


def replace(path: Path, content: bytes, pause: Callable[[], None]) -> None:
    """A new file under the old name, as careful programs save."""
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(content)
    pause()
    partial.replace(path)


def vanish_for_a_time(path: Path, content: bytes, pause: Callable[[], None]) -> None:
    """Removed, and back a moment later."""
    path.unlink()
    pause()
    path.write_bytes(content)


WAYS = (rewrite_in_place, write_anew, replace, vanish_for_a_time)


@contextmanager
def rewritten(paths: list[Path], rest: float, seed: int = 7) -> Iterator[None]:
    """Files that are rewritten all the time, each in every way, with rests of up to `rest` seconds."""
    done = threading.Event()

    def work(path: Path) -> None:
        chance = random.Random(f"{seed} {path.name}")
        while not done.is_set():
            chance.choice(WAYS)(path, version(chance), lambda: done.wait(chance.random() * 0.02) or None)
            done.wait(chance.random() * rest)

    for path in paths:
        path.write_bytes(version(random.Random(seed)))
        os.utime(path, (1_000_000_000, 1_000_000_000))
    writers = [threading.Thread(target=work, args=(path,)) for path in paths]
    for writer in writers:
        writer.start()
    try:
        yield
    finally:
        done.set()
        for writer in writers:
            writer.join()
