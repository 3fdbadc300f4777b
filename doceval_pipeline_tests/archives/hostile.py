"""Archives that try to use up memory or time, written without using either."""

import json
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from doceval_pipeline.archives.format import MEMBERS, ROWS
from doceval_pipeline_tests.archives.small import read_members, write_small

Pieces = Iterable[bytes]
MIB = 1024 * 1024


def write_with(path: Path, member: str, pieces: Pieces, rows: int = 1) -> None:
    """A small archive in which a member is another one; its manifest fits."""
    write_small(path)
    members = read_members(path)
    manifest = json.loads(members["manifest.json"])
    with ZipFile(path, "w", ZIP_DEFLATED, compresslevel=1) as archive:
        for name in [*MEMBERS, *(name for name in members if name.startswith("documents/"))]:
            if name != member:
                archive.writestr(name, members[name])
                continue
            digest, size = sha256(), 0
            info = ZipInfo(name)
            info.compress_type = ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as file:
                for piece in pieces:
                    digest.update(piece)
                    size += len(piece)
                    file.write(piece)
            manifest["members"][name] |= {"sha256": digest.hexdigest(), "bytes": size}
            if name in ROWS:
                manifest["members"][name]["rows"] = rows
        archive.writestr("manifest.json", json.dumps(manifest))


def repeated(piece: bytes, size: int, before: bytes = b"", after: bytes = b"") -> Iterator[bytes]:
    """About `size` bytes of the same."""
    yield before
    many = piece * (MIB // len(piece))
    for _ in range(size // len(many)):
        yield many
    yield after
