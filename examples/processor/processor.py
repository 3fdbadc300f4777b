"""A processor: takes rows from KnowledgeDocuments, asks an OpenAI-compatible model, writes what it says.

    pip install -r requirements.txt
    export KNOWLEDGE_DOCUMENTS_URL=postgresql://my_processor@host/KnowledgeDocuments OPENAI_API_KEY=…
    python processor.py --workers 8

It knows the pipeline only by its contract, docs/processors.md: four SQL functions and the table docs.
Start it as often as you like, kill it whenever you like. Take it as the beginning of your own.
"""

import argparse
import base64
import hashlib
import json
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import openai
import psycopg2
from psycopg2.extras import RealDictCursor

log = logging.getLogger("processor")
# Not the model's fault and not the document's: the row is given back, to be delivered again.
PASSING = (openai.RateLimitError, openai.APIConnectionError, openai.InternalServerError)
# A line that begins with "Score:", and the form in which it counts, without the marks of bold text.
SCORE_LINE = re.compile(r"^[ \t]*\**score[ \t]*\**[ \t]*:.*$", re.IGNORECASE | re.MULTILINE)
SCORE = re.compile(r"[ \t]*score[ \t]*:[ \t]*([0-9]+(?:\.[0-9]+)?)[ \t\r]*", re.IGNORECASE)
INSTRUCTION = (
    "Answer the question about the document. End with a line of the form 'Score: N', N from 0 to 100."
)


def main() -> None:
    """Work until told to stop, or until the queue is empty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=4, help="rows at the same time")
    parser.add_argument("--lease", type=float, default=120, help="seconds; renewed while a row is worked on")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one answer of a model")
    parser.add_argument("--retries", type=int, default=4, help="of a call, before the row is given back")
    parser.add_argument("--prices", default="{}", help='JSON: {"model": [per million input, output tokens]}')
    parser.add_argument("--until-empty", action="store_true", help="end when nothing waits")
    options = parser.parse_args()
    options.prices = json.loads(options.prices)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    workers = [threading.Thread(target=work, args=(options, stop)) for _ in range(options.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def work(options: argparse.Namespace, stop: threading.Event) -> None:
    """Take one row after the other; begin anew where the connection to the database breaks."""
    # Other programs name the driver in the URL too.
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
                        # An empty queue is asked less and less often.
                        stop.wait(idle)
                        idle = min(2 * idle, 5)
        except psycopg2.OperationalError as error:
            log.warning("the database is out of reach: %s", str(error).strip())
            stop.wait(5)


def answer(database: Any, row: dict[str, Any], options: argparse.Namespace) -> None:
    """Ask the model about one document, and write the result under the row's lease."""
    token = row["token"]
    try:
        with kept_alive(database, token, options.lease):
            content = read_document(database, row["document_id"])
            said = ask(row, content, options)
        text = (said.choices[0].message.content or "").replace("\0", "")
        if not text:
            raise ValueError(f"the model gave no text, and ended with {said.choices[0].finish_reason}")
    except PASSING as error:
        reason = without_key(row, error)
        written = query(database, "SELECT * FROM fail_response(%s, %s, retry => true)", token, reason)
    except (openai.OpenAIError, ValueError, KeyError) as error:
        reason = f"{type(error).__name__}: {without_key(row, error)}"
        written = query(database, "SELECT * FROM fail_response(%s, %s)", token, reason)
    else:
        statement = "SELECT * FROM complete_response(%s, %s, %s, %s, %s, %s)"
        usage = said.usage
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        details = json.dumps({"model": said.model, "cost": cost(row, tokens, options.prices)})
        written = query(database, statement, token, score(text), text, details, *tokens)
    log.info("%s: %s", row["file_name"], written[0]["message"])


def without_key(row: dict[str, Any], error: Exception) -> str:
    """What went wrong, without the key: some providers quote it when they refuse it."""
    key = os.environ.get(row["connection_details"]["api_key_env"] or "")
    return str(error).replace(key, "(key not shown)") if key else str(error)


def read_document(database: Any, document_id: int) -> dict[str, Any]:
    """The document, whole: all of its base64 is decoded, and what comes out is what was stored."""
    (document,) = query(database, "SELECT * FROM docs WHERE id = %s", document_id)
    document["bytes"] = base64.b64decode(document["content"], validate=True)
    if hashlib.sha256(document["bytes"]).hexdigest() != document["sha256"]:
        raise ValueError("the content is not the one that its sha256 names")
    return document


def ask(row: dict[str, Any], document: dict[str, Any], options: argparse.Namespace) -> Any:
    """One call of the model; the client tries again by itself, later and later, what may pass."""
    connection = row["connection_details"]
    key = os.environ[connection["api_key_env"]] if connection["api_key_env"] else "none"
    url, port = connection["base_url"], connection["port_no"]
    if url and port and not urlsplit(url).port:
        url = urlsplit(url)._replace(netloc=f"{urlsplit(url).netloc}:{port}").geturl()
    with openai.OpenAI(
        api_key=key, base_url=url, max_retries=options.retries, timeout=options.timeout
    ) as model:
        return model.chat.completions.create(
            model=connection["model_name"],
            messages=[
                {"role": "system", "content": INSTRUCTION},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": row["prompt_text"]}, part(row, document)],
                },
            ],
            **connection["connection_config"],
        )


def part(row: dict[str, Any], document: dict[str, Any]) -> Any:
    """The document as a part of a message: as text where it is text, otherwise as base64."""
    try:
        return {"type": "text", "text": document["bytes"].decode("utf-8")}
    except UnicodeDecodeError:
        data = f"data:{document['content_type']};base64,{document['content']}"
    if document["content_type"].startswith("image/"):
        return {"type": "image_url", "image_url": {"url": data}}
    return {"type": "file", "file": {"filename": row["file_name"] or document["sha256"], "file_data": data}}


def score(text: str) -> float | None:
    """The score in the last line of the form `Score: N`, from 0 to 100; None where there is none.

    The number must fill the line: "Score: 8/10" is another scale, and prose that mentions a score gives none.
    """
    lines = SCORE_LINE.findall(text)
    found = SCORE.fullmatch(lines[-1].replace("**", "")) if lines else None
    return float(found[1]) if found and float(found[1]) <= 100 else None


def cost(
    row: dict[str, Any], tokens: tuple[int | None, int | None], prices: dict[str, list[float]]
) -> float | None:
    """What the answer cost, in the currency of the prices; None where they or the tokens are not known."""
    asked = prices.get(row["connection_details"]["model_name"])
    if asked is None or tokens[0] is None or tokens[1] is None:
        return None
    return (tokens[0] * asked[0] + tokens[1] * asked[1]) / 1_000_000


@contextmanager
def kept_alive(database: Any, token: str, lease: float) -> Iterator[None]:
    """Renew a lease, from a thread of its own, for as long as the block lasts."""
    done = threading.Event()

    def renew() -> None:
        # A lease that is lost stays lost: the result will be refused, and nothing else happens.
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
    """Run one statement in a transaction of its own."""
    with database.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())


if __name__ == "__main__":
    main()
