"""A processor: takes rows from KnowledgeDocuments, calls an OpenAI-compatible model, writes its answers.

    pip install -r requirements.txt
    export KNOWLEDGE_DOCUMENTS_URL=postgresql://my_processor@host/KnowledgeDocuments OPENAI_API_KEY=…
    python processor.py --workers 8

It knows the pipeline only by its contract, docs/processors.md: four SQL functions and the table docs.
You may run any number of these and kill them at any time. Use it as a starting point for your own.
"""

import argparse
import base64
import codecs
import email.utils
import hashlib
import json
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import openai
import psycopg2
from psycopg2.extras import RealDictCursor

log = logging.getLogger("processor")
# Not caused by the document: the row is given back and delivered again.
TEMPORARY_ERRORS = (openai.RateLimitError, openai.APIConnectionError, openai.InternalServerError)
# Too many requests, or overloaded: the delivery does not count towards the five either.
BUSY = (429, 503, 529)
KEY_ERRORS = (openai.AuthenticationError, openai.PermissionDeniedError)
# Seconds until a row is delivered again: the default, the minimum and the maximum.
WAIT, SHORTEST_WAIT, LONGEST_WAIT = 60, 1, 86_400
GIVE_BACK = """
    SELECT * FROM fail_response(%s, %s, retry => true, not_before => make_interval(secs => %s), counted => %s)
"""
# By connection, the time.monotonic() until which its model gets no request; other rows continue.
PAUSES: dict[int, float] = {}
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# A line that begins with "Score:", in bold or not, and its accepted form.
SCORE_LINE = re.compile(r"^[ \t]*\**score[ \t]*\**[ \t]*:.*$", re.IGNORECASE | re.MULTILINE)
SCORE = re.compile(r"[ \t]*score[ \t]*:[ \t]*([0-9]+(?:\.[0-9]+)?)[ \t\r]*", re.IGNORECASE)
INSTRUCTION = (
    "Answer the question about the document. End with a line of the form 'Score: N', N from 0 to 100."
)


class NoKey(Exception):
    """The key of a connection is missing or rejected, so every other row of it would fail too."""


class Paused(Exception):
    """The model of a connection was busy for another row, and requested a pause."""

    def __init__(self, seconds: float) -> None:
        super().__init__("the model is busy")
        self.seconds = seconds


def main() -> None:
    """Run the workers until a signal, a missing or rejected key, or, with --until-empty, an empty queue."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=4, help="rows processed at the same time")
    parser.add_argument("--lease", type=float, default=120, help="seconds; renewed while a row is processed")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one answer of the model")
    parser.add_argument("--retries", type=int, default=4, help="of a call, before its row is given back")
    parser.add_argument("--prices", default="{}", help='JSON: {"model": [per million input, output tokens]}')
    parser.add_argument("--until-empty", action="store_true", help="exit when no row can be taken")
    options = parser.parse_args()
    options.prices = json.loads(options.prices)
    # The client's log lines, one for each request, would repeat the line for each row.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(threadName)s %(message)s")
    log.setLevel(logging.INFO)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # Why the program must stop: the first worker that finds out adds the reason, for all of them.
    reasons: list[str] = []
    if "KNOWLEDGE_DOCUMENTS_URL" not in os.environ:
        raise SystemExit("KNOWLEDGE_DOCUMENTS_URL is not set: set it to the URL of the queue's database")
    workers = [threading.Thread(target=work, args=(options, stop, reasons)) for _ in range(options.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if reasons:
        raise SystemExit(f"{reasons[0]}: the rows were given back; set a valid key and start it again")


def work(options: argparse.Namespace, stop: threading.Event, reasons: list[str]) -> None:
    """Process one row after the other; reconnect if the connection to the database breaks."""
    # The variable may hold SQLAlchemy's form of the URL, which names the driver.
    url = re.sub(r"^postgresql\+\w+", "postgresql", os.environ["KNOWLEDGE_DOCUMENTS_URL"])
    idle = 0.1
    while not stop.is_set():
        try:
            with closing(psycopg2.connect(url, cursor_factory=RealDictCursor)) as database:
                database.set_session(isolation_level="READ COMMITTED", autocommit=True)
                while not stop.is_set():
                    claim = "SELECT * FROM claim_responses(1, make_interval(secs => %s), %s)"
                    rows = query(database, claim, options.lease, f"reference-{os.getpid()}")
                    if rows:
                        answer(database, rows[0], options)
                        idle = 0.1
                    elif options.until_empty:
                        return
                    else:
                        # An empty queue is polled less and less often.
                        stop.wait(idle)
                        idle = min(2 * idle, 5)
        except NoKey as error:
            reasons.append(str(error))
            stop.set()
        except psycopg2.OperationalError as error:
            log.warning("the database is out of reach: %s", str(error).strip())
            stop.wait(5)


def answer(database: Any, row: dict[str, Any], options: argparse.Namespace) -> None:
    """Call the model about one document and write the result; raise NoKey after giving the row back."""
    token, reason = row["token"], ""
    try:
        with kept_alive(database, token, options.lease):
            document = read_document(database, row["document_id"])
            response = ask(row, document, options)
        text = (response.choices[0].message.content or "").replace("\0", "")
        if not text:
            raise ValueError(f"the model returned no text ({response.choices[0].finish_reason})")
    except (NoKey, Paused, *TEMPORARY_ERRORS) as error:
        reason = without_key(row, error)
        if isinstance(error, openai.APIStatusError) and is_busy(error):
            PAUSES[row["connection_details"]["id"]] = time.monotonic() + wait(error)
        written = query(database, GIVE_BACK, token, reason, wait(error), not is_busy(error))
        if isinstance(error, NoKey):
            raise NoKey(reason) from None
    except (openai.OpenAIError, ValueError, KeyError) as error:
        reason = f"{type(error).__name__}: {without_key(row, error)}"
        written = query(database, "SELECT * FROM fail_response(%s, %s)", token, reason)
    else:
        statement = "SELECT * FROM complete_response(%s, %s, %s, %s, %s, %s)"
        usage = response.usage
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        details = json.dumps({"model": response.model, "cost": cost(row, tokens, options.prices)})
        written = query(database, statement, token, score(text), text, details, *tokens)
    log.info("%s: %s%s", row["file_name"], written[0]["message"], reason and f": {reason}")


def without_key(row: dict[str, Any], error: Exception) -> str:
    """Return the error in one line and without the key, which some providers quote when they reject it."""
    key = os.environ.get(row["connection_details"]["api_key_env"] or "")
    text = " ".join(str(error).split())
    return text.replace(key, "(key not shown)") if key else text


def is_busy(error: Exception) -> bool:
    """Return whether no model has read the document; a timeout may be caused by the document."""
    return getattr(error, "status_code", 503) in BUSY and not isinstance(error, openai.APITimeoutError)


def wait(error: Exception) -> float:
    """Return the pause that the model requested, in seconds; Retry-After is a number or a date."""
    if isinstance(error, Paused):
        return error.seconds
    header = error.response.headers.get("retry-after") if isinstance(error, openai.APIStatusError) else None
    try:
        date = email.utils.parsedate_to_datetime(header).timestamp() if header and ":" in header else None
        seconds = date - time.time() if date else float(header or WAIT)
    except (ValueError, OverflowError):
        seconds = WAIT
    # NaN is not greater than anything, and becomes the minimum.
    return min(seconds, LONGEST_WAIT) if seconds > SHORTEST_WAIT else SHORTEST_WAIT


def read_document(database: Any, document_id: int) -> dict[str, Any]:
    """Return the whole document, decoded from base64 and compared with its sha256."""
    (document,) = query(database, "SELECT * FROM docs WHERE id = %s", document_id)
    document["bytes"] = base64.b64decode(document["content"], validate=True)
    if hashlib.sha256(document["bytes"]).hexdigest() != document["sha256"]:
        raise ValueError("the content does not match its sha256")
    return document


def ask(row: dict[str, Any], document: dict[str, Any], options: argparse.Namespace) -> Any:
    """Call the model once; the client retries temporary errors, with growing pauses."""
    connection = row["connection_details"]
    if (left := PAUSES.get(connection["id"], 0) - time.monotonic()) > 0:
        raise Paused(left)
    name = connection["api_key_env"]
    key = os.environ.get(name) if name else "none"
    if not key:
        raise NoKey(f"{name} is not set")
    with openai.OpenAI(
        api_key=key, base_url=endpoint(connection), max_retries=options.retries, timeout=options.timeout
    ) as model:
        content = [{"type": "text", "text": row["prompt_text"]}, part(row, document)]
        try:
            return model.chat.completions.create(
                model=connection["model_name"],
                messages=[{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": content}],
                **connection["connection_config"],
            )
        except KEY_ERRORS as error:
            raise NoKey(f"the key in {name} was rejected ({error})") from error


def endpoint(connection: dict[str, Any]) -> Any:
    """Return the URL of the model: `port_no` is appended to the host of `base_url` if that has no port."""
    url, port = connection["base_url"], connection["port_no"]
    if not url or not port or urlsplit(url).port:
        return url
    return urlsplit(url)._replace(netloc=f"{urlsplit(url).netloc}:{port}").geturl()


def part(row: dict[str, Any], document: dict[str, Any]) -> Any:
    """Return the document as a part of a message: as text if it is text, otherwise as base64."""
    text = text_of(document)
    if text is not None:
        return {"type": "text", "text": text}
    data = f"data:{document['content_type']};base64,{document['content']}"
    if document["content_type"].startswith("image/"):
        return {"type": "image_url", "image_url": {"url": data}}
    return {"type": "file", "file": {"filename": row["file_name"] or document["sha256"], "file_data": data}}


def text_of(document: dict[str, Any]) -> str | None:
    """Return the document's text, or None if it is not text; one-byte encodings are read as Windows-1252."""
    content = document["bytes"]
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if not document["content_type"].startswith(("text/", "application/json", "application/xml")):
            return None
    try:
        return content.decode("utf-16" if content.startswith(UTF_16) else "cp1252")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def score(text: str) -> float | None:
    """Return the score in the last line of the form `Score: N`, from 0 to 100, or None.

    The number must fill the line: "Score: 8/10" is another scale, and prose that mentions a score gives none.
    """
    lines = SCORE_LINE.findall(text)
    found = SCORE.fullmatch(lines[-1].replace("**", "")) if lines else None
    return float(found[1]) if found and float(found[1]) <= 100 else None


def cost(
    row: dict[str, Any], tokens: tuple[int | None, int | None], prices: dict[str, list[float]]
) -> float | None:
    """Return the cost of the answer in the currency of the prices, or None if it is unknown."""
    price = prices.get(row["connection_details"]["model_name"])
    if price is None or tokens[0] is None or tokens[1] is None:
        return None
    return (tokens[0] * price[0] + tokens[1] * price[1]) / 1_000_000


@contextmanager
def kept_alive(database: Any, token: str, lease: float) -> Iterator[None]:
    """Renew a lease from another thread for as long as the block lasts."""
    done = threading.Event()

    def renew() -> None:
        # A lost lease cannot be renewed: the result will be rejected, without further harm.
        while not done.wait(lease / 3):
            query(database, "SELECT * FROM heartbeat_response(%s, make_interval(secs => %s))", token, lease)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def query(database: Any, statement: str, *parameters: Any) -> list[dict[str, Any]]:
    """Run one statement in its own transaction."""
    with database.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())


if __name__ == "__main__":
    main()
