"""Words for where reused results come from."""

from doceval_pipeline.reports.formatting import counted

ELSEWHERE = "another installation"
"""Where results come from whose batch is unknown here, because they were restored from its archive."""


def origins_text(batches: int, *, is_elsewhere: bool) -> str:
    """Where reused results come from: "2 batches and another installation"."""
    places = [counted(batches, "batch", "batches")] if batches else []
    return " and ".join([*places, *([ELSEWHERE] if is_elsewhere else [])])
