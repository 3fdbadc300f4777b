"""What sensors keep between two ticks. A cursor that was edited or lost counts as an empty one."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from doceval_pipeline.batches.monitoring.stalls import Movement

BatchId = Annotated[int, Field(ge=1, le=2**31 - 1)]
Word = Annotated[str, Field(max_length=200)]


class Cursor(BaseModel):
    """A cursor as JSON; every field has a default, which an empty cursor means."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @classmethod
    def read(cls, text: str | None) -> Self:
        """What the cursor says, or an empty one where it does not say anything that can be read."""
        try:
            return cls.model_validate_json(text or "{}")
        except ValueError:
            return cls()

    def write(self) -> str:
        """The cursor as text."""
        return self.model_dump_json()


class Seen(Cursor):
    """Cursor of `response_status`: the version it has seen, and the results it has recorded, by batch."""

    seen: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    told: dict[BatchId, Word] = {}


class Looked(Cursor):
    """Cursor of `recurring_evaluations`: when each looks for arrivals next, in seconds since 1970."""

    next_looks: dict[BatchId, Annotated[float, Field(ge=0, le=1e11)]] = {}


class Written(Cursor):
    """Cursor of `fresh_series`: the state in which the page of each recurring evaluation was asked for."""

    written: dict[BatchId, Word] = {}


class Judged(Cursor):
    """Cursor of `stalled_work`: the newest judgement of each open batch, and of each missing report."""

    movements: dict[BatchId, Movement] = {}
    unreported: dict[BatchId, Word] = {}
