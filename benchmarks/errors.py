"""Errors of benchmarks; a slow result is not an error."""


class BenchmarkError(Exception):
    """A benchmark cannot continue; the message is one line."""


class WrongResult(BenchmarkError):
    """The result of the work is wrong, so its cost means nothing."""
