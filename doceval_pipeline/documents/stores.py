"""Buckets on object storage: lists and gets objects, and turns every failure into one line.

obstore reads the objects. It cannot list a page that has a key with an empty segment, `.`, `..` or a control
character, and it does not say whether a key ends with a slash. Therefore S3 is listed by requests that
obstore signs and Python sends; the credentials stay inside obstore. No error quotes a URL, the body of a
response or a credential.
"""

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote_plus, urlencode
from urllib.request import HTTPRedirectHandler, OpenerDirector, build_opener
from xml.etree import ElementTree

from doceval_pipeline.documents.reading import CHANGED, DocumentRejected
from doceval_pipeline.documents.walk import UNREADABLE, VANISHED
from doceval_pipeline.errors import StagingError
from doceval_pipeline.names import printable
from doceval_pipeline.object_urls import ObjectUrl

if TYPE_CHECKING:
    from obstore import GetResult

PAGE_KEYS = 1_000
MOST_TRIES = 6
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0
# The longest `Retry-After` that is obeyed, in seconds.
LONGEST_RETRY_AFTER = 60.0
SECONDS_WITHOUT_ANSWER = 30
LARGEST_PAGE = 16 * 1024 * 1024
_VALID_FOR = timedelta(minutes=5)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_ODD_KEY = re.compile(r'path: "((?:[^"\\]|\\.)*)"')
_EXPIRED = {"ExpiredToken", "TokenRefreshRequired", "RequestExpired", "ExpiredTokenException"}
_REFUSED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId"}
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
# How obstore describes that it found no credentials and asked the metadata service of a cloud machine.
_NO_CREDENTIALS = re.compile(r"169\.254\.169\.254|metadata\.google\.internal|getting credentials")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as listed; `size` in bytes, `modified_ns` in nanoseconds since 1970."""

    key: str
    size: int
    modified_ns: int
    etag: str | None


def problem_of_library() -> str | None:
    """Why object storage cannot be read by this installation; None if it can."""
    try:
        import obstore  # noqa: F401 - only used when a folder is on object storage
    except ImportError:
        return "is on object storage: install doceval-pipeline[cloud], which brings the library obstore"
    return None


@lru_cache(maxsize=64)
def bucket_of(url: ObjectUrl) -> "Bucket":
    """The objects of a folder; one store with its connections for all threads of this process.

    Raises
    ------
    StagingError
        The library is missing or cannot be configured.
    """
    return Bucket(url)


class Bucket:
    """The objects below a folder on object storage; get it by `bucket_of`."""

    def __init__(self, url: ObjectUrl) -> None:
        self.url = url
        if (problem := problem_of_library()) is not None:
            raise StagingError(f"folder {url} {problem}")
        with self._failures():
            self._store = _store(url)

    def objects(self, is_over: Callable[[], bool]) -> Iterator[StoredObject]:
        """List the objects in the order of the bytes of their keys, a page at a time.

        Parameters
        ----------
        is_over
            No failure is tried again once it returns True.

        Raises
        ------
        StagingError
        """
        return self._listed_by_signature(is_over) if self._can_sign() else self._listed_by_library()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn failures of reading one object into DocumentRejected, and all others into StagingError."""
        from obstore.exceptions import PermissionDeniedError, PreconditionError

        with self._failures():
            try:
                yield
            except PreconditionError:
                raise DocumentRejected(CHANGED) from None
            except FileNotFoundError as error:
                if _code(str(error)) == "NoSuchBucket":
                    raise
                raise DocumentRejected(VANISHED) from None
            except PermissionDeniedError as error:
                if _is_about_credentials(str(error)):
                    raise
                raise DocumentRejected(UNREADABLE) from None

    def get(self, key: str, etag: str | None, begin: int = 0, end: int | None = None) -> "GetResult":
        """Begin to read an object, or its bytes from `begin` to `end`; use within `reading`.

        Parameters
        ----------
        etag
            The version to read; None for any.
        """
        import obstore

        options: dict[str, Any] = {} if etag is None else {"if_match": etag}
        if end is not None:
            options["range"] = (begin, end)
        # obstore does not export the type of its options.
        return obstore.get(self._store, key, options=options)  # type: ignore[arg-type]

    def _can_sign(self) -> bool:
        return self.url.scheme == "s3" and not _is_set("AWS_SKIP_SIGNATURE")

    def _listed_by_library(self) -> Iterator[StoredObject]:
        """List with obstore alone, which fails at the first key that it cannot name."""
        import obstore
        from obstore.exceptions import InvalidPathError

        before = ""
        with self._failures():
            try:
                for page in obstore.list(self._store, self.url.prefix or None, chunk_size=PAGE_KEYS):
                    for found in page:
                        key = found["path"]
                        # Keys are in order, and the slash at the end of a folder marker is not shown.
                        key = f"{key}/" if before and key <= before else key
                        before = key
                        modified_ns = _nanoseconds(found["last_modified"])
                        yield StoredObject(key, found["size"], modified_ns, found["e_tag"])
            except InvalidPathError as error:
                match = _ODD_KEY.search(str(error))
                key = printable(match[1][:200]) if match else "?"
                raise self._failed(f"has a key that the library cannot read ({key}): rename it") from None

    def _listed_by_signature(self, is_over: Callable[[], bool]) -> Iterator[StoredObject]:
        opener, token = build_opener(_NoRedirects), None
        while True:
            page = self._page(opener, token, is_over)
            found, token = self._parsed(page)
            yield from found
            if token is None:
                return

    def _page(self, opener: OpenerDirector, token: str | None, is_over: Callable[[], bool]) -> bytes:
        """Request a page of the listing; failures that may pass are tried again."""
        for tries_left in reversed(range(MOST_TRIES)):
            asked_to_wait = 0.0
            try:
                with opener.open(self._signed(token), timeout=SECONDS_WITHOUT_ANSWER) as response:
                    body: bytes = response.read(LARGEST_PAGE + 1)
                break
            except HTTPError as error:
                with error:
                    code = _code(error.read(64 * 1024).decode("utf-8", "replace"))
                if (error.code < 500 and error.code != 429) or not tries_left or is_over():
                    raise self._failed(_problem(error.code, code, "")) from None
                asked_to_wait = _seconds(error.headers.get("Retry-After"))
            except (URLError, OSError, HTTPException):
                if not tries_left or is_over():
                    raise self._failed(_problem(None, None, "")) from None
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (MOST_TRIES - 1 - tries_left))
            time.sleep(max(asked_to_wait, wait * random.uniform(0.5, 1)))  # noqa: S311 - spreads retries
        if len(body) > LARGEST_PAGE:
            raise self._failed("is listed in pages that are too large: check AWS_ENDPOINT")
        return body

    def _signed(self, token: str | None) -> str:
        """The URL of a page of the listing, signed by obstore.

        obstore signs URLs of objects. An endpoint that has the parameters of the listing makes one of it; the
        name of the object becomes the value of `x-id`, which S3 ignores.
        """
        import obstore
        from obstore.store import S3Store

        with self._failures():
            of_object = obstore.sign(self._store, "GET", "list", _VALID_FOR)
            endpoint = of_object.partition("?")[0].removesuffix("/list")
            if endpoint.startswith("http://") and not _is_set("AWS_ALLOW_HTTP"):
                raise self._failed(_problem(None, None, "builder error"))
            asked = {"list-type": "2", "prefix": self.url.beginning, "encoding-type": "url"}
            asked |= {"max-keys": str(PAGE_KEYS)} | ({} if token is None else {"continuation-token": token})
            query = urlencode(asked, quote_via=quote, safe="")
            store = S3Store(
                self.url.bucket, endpoint=f"{endpoint}?{query}&x-id=", virtual_hosted_style_request=True
            )
            return str(obstore.sign(store, "GET", "list", _VALID_FOR))

    def _parsed(self, page: bytes) -> tuple[list[StoredObject], str | None]:
        """The objects of a page, and the token of the next one."""
        try:
            # The store is the user's own, and expat limits the expansion of entities.
            root = ElementTree.fromstring(page)  # noqa: S314
            if not root.tag.endswith("ListBucketResult"):
                raise ValueError
            decode = unquote_plus if root.findtext("{*}EncodingType") == "url" else str
            found = []
            for element in root.iterfind("{*}Contents"):
                values = {child.tag.rpartition("}")[2]: child.text or "" for child in element}
                modified = datetime.fromisoformat(values["LastModified"])
                found.append(
                    StoredObject(
                        decode(values["Key"]),
                        int(values["Size"]),
                        _nanoseconds(modified),
                        values.get("ETag") or None,
                    )
                )
            has_more = root.findtext("{*}IsTruncated") == "true"
            token = root.findtext("{*}NextContinuationToken") if has_more else None
            if has_more and not token:
                raise ValueError
        except (ElementTree.ParseError, ValueError, KeyError, TypeError):
            raise self._failed("cannot be listed, the answer is not that of S3: check AWS_ENDPOINT") from None
        return found, token

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn the errors of the library into one line; they quote URLs and bodies of responses."""
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError, ValueError) as error:
            status = _STATUS.search(str(error))
            number = None if status is None else int(status[1])
            raise self._failed(_problem(number, _code(str(error)), str(error))) from None

    def _failed(self, problem: str) -> StagingError:
        return StagingError(f"folder {self.url} {problem}")


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect, because a signed URL is for one host."""

    def redirect_request(self, *_: Any) -> None:
        """Return None, so that the redirect counts as an error."""
        return


def _store(url: ObjectUrl) -> Any:
    """The library's store of a bucket, configured by its own environment variables or instance role."""
    from obstore.store import AzureStore, GCSStore, S3Store

    stores = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
    options: dict[str, Any] = {
        "connect_timeout": "5s",
        "read_timeout": f"{SECONDS_WITHOUT_ANSWER}s",
        # Of a whole request: large documents take longer than the default of 30 seconds.
        "timeout": "1h",
        # Other options of the client hide this variable from the library.
        "allow_http": _is_set("AWS_ALLOW_HTTP"),
    }
    retries: dict[str, Any] = {
        "max_retries": MOST_TRIES - 1,
        "retry_timeout": timedelta(minutes=2),
        "backoff": {
            "init_backoff": timedelta(seconds=FIRST_WAIT),
            "max_backoff": timedelta(seconds=LONGEST_WAIT),
            "base": 2,
        },
    }
    return stores[url.scheme](url.bucket, client_options=options, retry_config=retries)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in ("1", "true", "on", "yes", "y")


def _nanoseconds(moment: datetime) -> int:
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


def _seconds(retry_after: str | None) -> float:
    """How long a response asks to wait; dates count as not given."""
    given = (retry_after or "").strip()
    return min(LONGEST_RETRY_AFTER, float(given)) if given.isascii() and given.isdigit() else 0.0


def _code(text: str) -> str | None:
    match = _CODE.search(text)
    return None if match is None else match[1]


def _is_about_credentials(text: str) -> bool:
    return _code(text) in _EXPIRED | _REFUSED or _NO_CREDENTIALS.search(text) is not None


def _problem(status: int | None, code: str | None, text: str) -> str:
    """What is wrong with a folder and what to do, from the status, the code and the library's message."""
    shown = " ".join(filter(None, (str(status or ""), code)))
    if code in _EXPIRED:
        return f"cannot be read, the credentials have expired ({shown}): renew them"
    if code in _REFUSED or status == 401:
        return f"cannot be read, the credentials are not accepted ({shown}): check them"
    if _NO_CREDENTIALS.search(text):
        return (
            "cannot be read, no credentials were found: set the variables of the library, such as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use an instance role"
        )
    if code in _ELSEWHERE or status in (301, 302, 307, 308) or "redirect without LOCATION" in text:
        return f"cannot be read, its bucket is in another region ({shown or 'redirect'}): set AWS_REGION"
    if status == 403:
        return f"cannot be read, access is denied ({shown}): allow these credentials to list and read it"
    if status == 404:
        return f"cannot be read, its bucket does not exist ({shown}): create it or fix the URL"
    if status is not None:
        return f"cannot be read, the store answers {shown}: try again later"
    if "builder error" in text:
        return "cannot be read, the endpoint is not https: use https, or set AWS_ALLOW_HTTP=true"
    return "cannot be read, the endpoint does not answer: check AWS_ENDPOINT and the network"
