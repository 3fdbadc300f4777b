"""A processor that writes by UPDATE, as older ones do; `--faulty` gives it the known processor's bugs.

Run as a program by the tests. A row that it could not write ends it, as an ORM would.
"""

import base64
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from typing import Any

import psycopg2

FAULTY = "--faulty" in sys.argv
CLAIM = """
    UPDATE llm_responses SET status = 'P', task_id = %s WHERE id = ANY (ARRAY (
        SELECT id FROM llm_responses WHERE status = 'QUEUED'
        ORDER BY batch_id, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED))
    RETURNING id
"""
LOOK = "SELECT id FROM llm_responses WHERE status = 'QUEUED' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
MARK = "UPDATE llm_responses SET status = 'P' WHERE id = %s"
READ = """
    SELECT d.content, r.connection_details,
           jsonb_path_query_first(c.config, '$.prompts[*] ? (@.id == $id)',
                                  jsonb_build_object('id', r.prompt_id)) ->> 'text'
    FROM llm_responses r JOIN docs d ON d.id = r.document_id JOIN batch_configs c USING (batch_id)
    WHERE r.id = %s
"""
WRITE = """
    UPDATE llm_responses SET status = %s, overall_score = %s, response_text = %s, error_message = %s
    WHERE id = %s
"""


def main() -> None:
    connection = psycopg2.connect(os.environ["KNOWLEDGE_DOCUMENTS_URL"])
    connection.autocommit = True
    cursor = connection.cursor()
    while True:
        row = claim(cursor)
        if row is None:
            time.sleep(0.05)
            continue
        cursor.execute(READ, (row,))
        cursor.execute(WRITE, (*answer(*cursor.fetchone()), row))
        if cursor.rowcount != 1:
            raise SystemExit(f"row {row} is gone")


def claim(cursor: Any) -> int | None:
    if not FAULTY:
        cursor.execute(CLAIM, (f"task-{os.getpid()}",))
        found = cursor.fetchone()
        return found and int(found[0])
    # The lock is gone with the statement, before the row is marked.
    cursor.execute(LOOK)
    found = cursor.fetchone()
    if found is not None:
        time.sleep(0.02)
        cursor.execute(MARK, found)
    return found and int(found[0])


def answer(content: str, details: dict[str, Any], prompt: str) -> tuple[str, float | None, str | None, Any]:
    try:
        document = base64.b64decode(content[:1_398_101] if FAULTY else content, validate=True)
        said = ask(details, f"{prompt}\n\n{document.decode()}")
    except (ValueError, urllib.error.HTTPError) as error:
        return "F", None, None, str(error)
    score = float(re.findall(r"Score: ([\d.]+)", said)[0])
    return "S", (score or None) if FAULTY else score, said.replace("\0", ""), None


def ask(details: dict[str, Any], content: str) -> str:
    body = {"model": details["model_name"], "messages": [{"role": "user", "content": content}]}
    request = urllib.request.Request(
        details["base_url"] + "/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


if __name__ == "__main__":
    main()
