"""The sealed configuration of a batch."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Snapshot:
    """A sealed configuration."""

    canonical: str
    """JSON with sorted keys and without spaces, in UTF-8."""
    sha256: str
    """Of exactly these bytes."""

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as data; docs/snapshot.md describes its shape."""
        config: dict[str, Any] = json.loads(self.canonical)
        return config
