"""Whatever is in a file, a reader of archives takes little memory, and says in one line what is wrong."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import pytest

from doceval_pipeline.archives.format import ATTEMPTS, BATCH, CONFIG
from doceval_pipeline_tests.archives.hostile import MIB, repeated, write_with
from doceval_pipeline_tests.archives.small import write_small

MOST_MIB = 64
# Reads a good archive first, so that what it loads does not count.
READER = """
import resource, sys
from pathlib import Path
from doceval_pipeline.archives.checking import check
from doceval_pipeline.archives.reading import open_archive
from doceval_pipeline.errors import ArchiveError
peaks, told = [], []
for path in sys.argv[1:]:
    try:
        with open_archive(Path(path)) as archive:
            check(archive, lambda *_: None)
    except ArchiveError as error:
        told.append(str(error))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(peaks[1] - peaks[0])
print("\\n".join(told))
"""


def many_members(path: Path) -> None:
    with ZipFile(path, "w") as archive:
        for number in range(200_000):
            archive.writestr(ZipInfo(f"{number}"), b"")


GIGABYTES = 1536 * MIB
CASES: dict[str, Callable[[Path], None]] = {
    "a line of 1.5 GiB": lambda p: write_with(p, ATTEMPTS, repeated(b"0", GIGABYTES)),
    "a text of 1.5 GiB": lambda p: write_with(p, ATTEMPTS, repeated(b"a", GIGABYTES, b'{"response_text":"')),
    "parts": lambda p: write_with(p, ATTEMPTS, repeated(b'{"a":1},', 100 * MIB, b"[", b"1]\n")),
    "texts": lambda p: write_with(p, ATTEMPTS, repeated('"ä😀",'.encode(), 40 * MIB, b"[", b"1]\n")),
    "a text of 15 MiB": lambda p: write_with(
        p, ATTEMPTS, repeated("a😀".encode(), 15 * MIB, b'{"response_text":"', b'"}\n')
    ),
    "depth": lambda p: write_with(p, BATCH, repeated(b'{"a":', 10 * MIB)),
    "a configuration": lambda p: write_with(p, CONFIG, repeated(b'["a"],', 100 * MIB, b"[", b"1]")),
    "members": many_members,
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_takes_little_memory(tmp_path: Path, case: str) -> None:
    good, hostile = tmp_path / "good.zip", tmp_path / "hostile.zip"
    write_small(good)
    CASES[case](hostile)
    ended = subprocess.run(
        [sys.executable, "-c", READER, good, hostile], capture_output=True, text=True, check=True, timeout=120
    )
    grown, told = ended.stdout.splitlines()
    assert int(grown) <= MOST_MIB
    assert "is damaged" in told or "is not a doceval archive" in told


def test_a_long_text_is_measured_and_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "long.zip"
    write_with(path, ATTEMPTS, repeated(b"a", 20 * MIB, b'{"response_text":"', b'"}\n'))
    ended = subprocess.run(
        [sys.executable, "-c", READER, path, path], capture_output=True, text=True, check=True
    )
    assert "attempts.jsonl contains a string of more than 16 MiB" in ended.stdout
