"""How often each fault is tried: a few times with the slow tests, and in full by `make test-faults`."""

import pytest

# Chance that comes out the same every time, as far as processes let it.
SEED = 20_261_124


def short_and_full(names: str, short: tuple[int, ...], full: tuple[int, ...]) -> pytest.MarkDecorator:
    """Run a test twice: with small numbers as a slow test, and with the full ones behind their own marker."""
    return pytest.mark.parametrize(
        names,
        [
            pytest.param(*short, marks=pytest.mark.slow, id="short"),
            pytest.param(*full, marks=pytest.mark.faults, id="full"),
        ],
    )
