"""How often each fault is tried: a few times with the slow tests, and in full by `make test-faults`."""

from typing import Any

import pytest

# Chance that comes out the same every time, as far as processes let it.
SEED = 20_261_124


def short_and_full(name: str, short: Any, full: Any) -> pytest.MarkDecorator:
    """Run a test twice: with a short number as a slow test, and with the full one behind its own marker."""
    return pytest.mark.parametrize(
        name,
        [
            pytest.param(short, marks=pytest.mark.slow, id="short"),
            pytest.param(full, marks=pytest.mark.faults, id="full"),
        ],
    )
