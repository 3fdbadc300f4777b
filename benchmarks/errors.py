"""What can go wrong with a benchmark, apart from its being slow."""


class BenchmarkError(Exception):
    """A benchmark that cannot go on; one line."""


class WrongResult(BenchmarkError):
    """The work was done wrong, so that how long it took means nothing."""
