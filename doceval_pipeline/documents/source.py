"""Random access to the bytes of a document in memory or in an open file."""

import os
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of a document.

    `size` is in bytes. `at(offset, length)` returns `length` bytes from `offset`, fewer only at the end.
    """

    size: int
    at: Callable[[int, int], bytes]

    @classmethod
    def of(cls, content: bytes) -> "Source":
        """A document in memory."""
        return cls(len(content), lambda offset, length: content[offset : offset + length])

    @classmethod
    def of_file(cls, descriptor: int, size: int) -> "Source":
        """A document in an open file; `at` raises OSError if the file cannot be read."""
        return cls(size, lambda offset, length: os.pread(descriptor, max(0, length), offset))
