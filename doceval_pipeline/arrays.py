"""Lists for statements, each as the one text that PostgreSQL reads as an array.

A driver writes a list as one constant per element, and the server then needs about a kilobyte for each: 124
MiB for 100,000 of them, where the text of the array takes 4 MiB.
"""

from collections.abc import Iterable


def of_numbers(numbers: Iterable[int | None]) -> str:
    """The text of an array of whole numbers or truth values, such as `{1,2}`; None is NULL."""
    return f"{{{','.join('NULL' if number is None else str(number) for number in numbers)}}}"


def of_texts(texts: Iterable[str | None]) -> str:
    """The text of an array of texts; None is NULL."""
    return f"{{{','.join(map(_element, texts))}}}"


def of_bytes(values: Iterable[bytes]) -> str:
    """The text of an array of byte strings."""
    return of_texts(f"\\x{value.hex()}" for value in values)


def _element(value: str | None) -> str:
    if value is None:
        return "NULL"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
