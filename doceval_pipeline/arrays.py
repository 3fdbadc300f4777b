"""Converts lists to PostgreSQL's text form of arrays, for use as one parameter.

A driver passes a list as one constant per element, and the server needs about a kilobyte for each: 124 MiB
for 100,000 elements, compared with 4 MiB for the text form.
"""

from collections.abc import Iterable


def of_numbers(numbers: Iterable[float | None]) -> str:
    """Text form of an array of numbers or booleans, such as `{1,2.5}`; None is NULL."""
    return f"{{{','.join('NULL' if number is None else str(number) for number in numbers)}}}"


def of_texts(texts: Iterable[str | None]) -> str:
    """Text form of an array of texts; None is NULL."""
    return f"{{{','.join(map(_element, texts))}}}"


def of_bytes(values: Iterable[bytes]) -> str:
    """Text form of an array of byte strings."""
    return of_texts(f"\\x{value.hex()}" for value in values)


def _element(value: str | None) -> str:
    if value is None:
        return "NULL"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
