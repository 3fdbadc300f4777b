"""URLs of folders on object storage, such as `s3://bucket/contracts`. Opens no connection."""

import re
from dataclasses import dataclass
from functools import lru_cache

from doceval_pipeline.errors import PathError

SCHEMES = ("s3", "gs", "az")
_BEGINNINGS = tuple(f"{scheme}://" for scheme in SCHEMES)
_ANY_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_EXAMPLE = "write it as s3://BUCKET/PREFIX/"


@dataclass(frozen=True, slots=True)
class ObjectUrl:
    """A folder on object storage; `prefix` has no slash at either end and is empty for a whole bucket."""

    scheme: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def beginning(self) -> str:
        """What the keys of all objects in the folder begin with."""
        return f"{self.prefix}/" if self.prefix else ""

    def is_inside(self, other: "ObjectUrl") -> bool:
        """Whether this folder is below another one."""
        same_bucket = (self.scheme, self.bucket) == (other.scheme, other.bucket)
        return same_bucket and self != other and self.beginning.startswith(other.beginning)


def is_object_url(folder: str) -> bool:
    """Whether a stored folder is on object storage, not on disk."""
    return folder.startswith(_BEGINNINGS)


def looks_like_url(folder: str) -> bool:
    """Whether a folder as written by a user is a URL of any scheme."""
    return _ANY_SCHEME.match(folder) is not None


def holds_more_than_a_place(folder: str) -> bool:
    """Whether a URL has a user name, a password, a query string or a fragment, which may be secrets."""
    match = _ANY_SCHEME.match(folder)
    if match is None:
        return False
    rest = folder[match.end() :]
    return "@" in rest.partition("/")[0] or "?" in rest or "#" in rest


@lru_cache(maxsize=256)
def parse_object_url(folder: str) -> ObjectUrl:
    """The bucket and prefix of a URL; repeats no part that may be a secret in an error.

    Raises
    ------
    PathError
        The scheme is unknown, the bucket is invalid, or the library cannot name the prefix.
    """
    if holds_more_than_a_place(folder):
        raise PathError(
            "the URL of a folder has a user name, a password, a query string or a fragment: remove it, "
            "credentials come from environment variables"
        )
    scheme, _, rest = folder.partition("://")
    if scheme.lower() not in SCHEMES:
        raise PathError(f"folder {folder!r} has an unknown scheme: use s3://, gs://, az:// or a path on disk")
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise PathError(f"folder {folder!r} names no valid bucket: {_EXAMPLE}")
    prefix = prefix.removesuffix("/")
    if prefix and not is_readable_key(prefix):
        raise PathError(
            f"folder {folder!r} has an empty part, '.', '..' or a control character, which the library "
            f"cannot read: {_EXAMPLE}"
        )
    return ObjectUrl(scheme.lower(), bucket, prefix)


def is_readable_key(key: str) -> bool:
    """Whether the library obstore can name an object with this key.

    It removes a slash at either end, and rejects empty segments, `.`, `..` and ASCII control characters.
    """
    return not {"", ".", ".."}.intersection(key.split("/")) and _CONTROL.search(key) is None
