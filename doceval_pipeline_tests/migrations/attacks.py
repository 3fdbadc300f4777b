"""What each role must not be able to do, as statements: by role, with what it is called.

Each is refused by the database, or has no effect; which of the two does not matter. A statement may
begin with the creation of temporary things, which anybody may have.
"""

from collections.abc import Iterator, Mapping

from doceval_pipeline.migrations.upgrade import Schema
from doceval_pipeline_tests.migrations.conftest import STRANGER

Attacks = Mapping[str, str]

# The server, and what everything rests on: for nobody but its owner.
OF_EVERYBODY: Attacks = {
    "become the owner": "SET ROLE doceval_owner",
    "become the superuser": "SET SESSION AUTHORIZATION postgres",
    "join the owner": "GRANT doceval_owner TO CURRENT_USER",
    "be a superuser": "ALTER ROLE CURRENT_USER SUPERUSER",
    "make a role": "CREATE ROLE mine",
    "set the owner's defaults": "ALTER ROLE doceval_owner SET search_path = pg_temp",
    "set the database's defaults": "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', "
    "current_database()); END$$",
    "set the server's defaults": "ALTER SYSTEM SET fsync = off",
    "read passwords": "SELECT rolpassword FROM pg_authid",
    "run a program": "COPY (SELECT 1) TO PROGRAM 'true'",
    "write a file of the server": "COPY (SELECT 1) TO '/dev/null'",
    "read a file of the server": "CREATE TEMP TABLE f (t text); COPY f FROM '/etc/passwd'",
    "read a file by function": "SELECT pg_read_file('/etc/passwd')",
    "import a file": "SELECT lo_import('/etc/passwd')",
    "end other sessions": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE usename = 'postgres' AND datname = current_database()",
    "turn triggers off for a session": "SET session_replication_role = replica",
    "make a schema": "CREATE SCHEMA mine",
    "make a table": "CREATE TABLE public.mine ()",
    "make a view": "CREATE VIEW public.mine AS SELECT 1",
    "make a function": "CREATE FUNCTION public.lpad(text, int, unknown) RETURNS text "
    "LANGUAGE sql AS 'SELECT NULL::text'",
    "make a function in the catalog": "CREATE FUNCTION pg_catalog.mine() RETURNS int "
    "LANGUAGE sql AS 'SELECT 1'",
    "make an event trigger": "CREATE EVENT TRIGGER mine ON ddl_command_start "
    "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "publish": "CREATE PUBLICATION mine FOR ALL TABLES",
    "drop what the owner has": "DROP OWNED BY doceval_owner CASCADE",
    "take what the owner has": "REASSIGN OWNED BY doceval_owner TO CURRENT_USER",
}
# The tables and functions of KnowledgeDocuments: for nobody but their owner.
OF_EVERYBODY_IN_KNOWLEDGE: Attacks = {
    "turn off triggers": "ALTER TABLE llm_responses DISABLE TRIGGER ALL",
    "turn off the guard": "ALTER TABLE llm_responses DISABLE TRIGGER guard_response",
    "drop the guard": "DROP TRIGGER guard_response ON llm_responses",
    "change rows by a trigger": "CREATE TRIGGER mine BEFORE UPDATE ON llm_responses FOR EACH ROW "
    "EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "divert writes by a rule": "CREATE RULE mine AS ON UPDATE TO llm_responses DO INSTEAD NOTHING",
    "hide rows by a policy": "ALTER TABLE llm_responses ENABLE ROW LEVEL SECURITY",
    "drop the bounds of scores": "ALTER TABLE llm_responses "
    "DROP CONSTRAINT llm_responses_overall_score_check",
    "change a column": "ALTER TABLE llm_responses ALTER COLUMN status DROP NOT NULL",
    "drop a table": "DROP TABLE docs CASCADE",
    "own a table": "ALTER TABLE docs OWNER TO CURRENT_USER",
    "give rights away": "GRANT ALL ON llm_responses TO PUBLIC",
    "give rights on functions away": "GRANT EXECUTE ON FUNCTION claim_responses TO PUBLIC",
    "empty the queue": "TRUNCATE llm_responses",
    "empty the documents": "TRUNCATE docs CASCADE",
    "replace a function": "CREATE OR REPLACE FUNCTION require_lease(lease interval) RETURNS void "
    "LANGUAGE sql AS 'SELECT'",
    "have a function act for its caller": "ALTER FUNCTION claim_responses SECURITY INVOKER",
    "have a function search elsewhere": "ALTER FUNCTION claim_responses SET search_path = pg_temp",
    "drop a function": "DROP FUNCTION fail_response",
    "turn the queue's clock": "SELECT setval('llm_responses_queue_clock', 9000000000000000000)",
    "turn the clock of leases": "SELECT setval('llm_responses_lease_clock', 9000000000000000000)",
    "restart the queue's clock": "ALTER SEQUENCE llm_responses_queue_clock RESTART",
    "turn the numbers of rows back": "SELECT setval('llm_responses_id_seq', 1)",
    "turn the numbers of documents back": "SELECT setval('docs_id_seq', 1)",
    "reserve all numbers of rows": "SELECT advance_numbers('llm_responses', 9000000000000000000)",
    "reserve numbers of the queue's clock": "SELECT advance_numbers('response_counts', 9)",
    "say it is another version": "UPDATE doceval_knowledge_version SET version_num = '9999'",
    "rewrite a document": "UPDATE docs SET content = ''",
    "rewrite the sealed configuration": "UPDATE batch_configs SET config = '{}'",
    "rewrite counts": "UPDATE response_counts SET succeeded = 99",
    "remove counts": "DELETE FROM response_counts",
    "take rows without a claim": "SELECT * FROM take_responses(0, 5, '1 hour', 'mine')",
    "deliver rows to oneself": "SELECT * FROM deliver_responses(5, '1 hour', 'mine')",
    "write a result past the functions": "SELECT write_result(gen_random_uuid(), 'S', NULL, 100, NULL, "
    "NULL, NULL, NULL, NULL)",
    "make a token": "SELECT new_lease_token(1)",
    "give back rows of others": "SELECT return_responses(ARRAY[1, 2, 3]::bigint[], 0, 'mine')",
    "put off the look at leases": "SELECT look_for_leases_at('9999-01-01')",
    "hold up the counting": "SELECT lock_response_counts()",
    "count by a trigger of one's own": "CREATE TEMP TABLE r (batch_id int, document_id int, prompt_id int, "
    "connection_id int, attempt int, status text, withdrawn_at int, superseded_at int); CREATE TRIGGER t "
    "AFTER INSERT ON r FOR EACH ROW EXECUTE FUNCTION count_later_attempt(); "
    "INSERT INTO r VALUES (1, 1, 1, 1, 2, 'S')",
    "place rows by a trigger of one's own": "CREATE TEMP TABLE p (batch_id int, status text, "
    "queue_position bigint, error_message text); CREATE TRIGGER t BEFORE INSERT ON p FOR EACH ROW "
    "EXECUTE FUNCTION place_response(); INSERT INTO p VALUES (1)",
}
_LOCKS: Attacks = {
    f"lock {table} from everybody, {mode.lower()}": f"DO $$BEGIN LOCK TABLE {table} IN {mode} MODE; END$$"
    for table in ("docs", "llm_responses", "batch_configs", "response_counts")
    for mode in ("SHARE UPDATE EXCLUSIVE", "ACCESS EXCLUSIVE")
}
OF_PROCESSORS_AND_READERS: Attacks = {
    "use up numbers of rows": "SELECT nextval('llm_responses_id_seq')",
    "reserve numbers of rows": "SELECT advance_numbers('llm_responses', 1000000)",
    "make a large object": "SELECT lo_create(0)",
    "fill a large object": "SELECT lo_from_bytea(0, decode(repeat('00', 1000000), 'hex'))",
    **_LOCKS,
    "add a document": "INSERT INTO docs (document_id, sha256, content, content_type, doc_type, file_size) "
    "VALUES ('sha256:' || repeat('0', 64), repeat('0', 64), '', '', '', 0)",
    "remove a document": "DELETE FROM docs",
    "add a row": "INSERT INTO llm_responses (batch_id, document_id, prompt_id, connection_id, attempt, "
    "status, connection_details) SELECT 1, id, 1, 1, 9, 'S', '{}' FROM docs",
    "add what is there": "INSERT INTO llm_responses SELECT * FROM llm_responses ON CONFLICT DO NOTHING",
    "remove rows": "DELETE FROM llm_responses",
    "remove the configuration": "DELETE FROM batch_configs",
    "pause a batch": "UPDATE batch_configs SET requeue_as = 'F'",
    "set a row aside": "UPDATE llm_responses SET withdrawn_at = now()",
    "supersede a row": "UPDATE llm_responses SET superseded_at = now()",
    "be first in the queue": "UPDATE llm_responses SET queue_position = 0",
    "write a lease": "UPDATE llm_responses SET lease_expires_at = now() + interval '100 years', "
    "status = 'P', lease_token = gen_random_uuid()",
    "move a row to another document": "UPDATE llm_responses SET document_id = document_id + 1",
    "be another attempt": "UPDATE llm_responses SET attempt = attempt + 1",
    "change what a row asks": "UPDATE llm_responses SET connection_details = '{}'",
    "tidy the queue": "SELECT tidy_queue()",
    "end leases": "SELECT expire_leases()",
    "fold counts": "SELECT fold_response_counts()",
    "count anew": "SELECT recount_responses(1)",
    "ask the back of the queue": "SELECT back_of_queue()",
    "leave a difference of counts": "INSERT INTO response_deltas (batch_id, succeeded) VALUES (1, 99)",
}
WITHOUT_THE_FUNCTIONS: Attacks = {
    "claim": "SELECT * FROM claim_responses(1)",
    "answer": "SELECT complete_response(lease_token, 1) FROM llm_responses WHERE status = 'P'",
    "fail": "SELECT fail_response(gen_random_uuid(), 'mine')",
    "hold a lease": "SELECT heartbeat_response(gen_random_uuid(), '1 day')",
}
OF_WORKERS: Attacks = {
    "read results of others": "SELECT response_text FROM llm_responses",
    "read current results": "SELECT * FROM current_llm_responses",
    "read tokens of others": "SELECT lease_token FROM llm_responses",
    "write a result without a lease": "UPDATE llm_responses SET status = 'S', overall_score = 100",
    "read counts": "SELECT * FROM response_counts",
    "lock a document": "SELECT 1 FROM docs FOR UPDATE",
    "lock a configuration": "SELECT 1 FROM batch_configs FOR SHARE",
    "claim a billion rows": "SELECT * FROM claim_responses(1000000000)",
    "claim no row": "SELECT * FROM claim_responses(0)",
    "claim fewer than no row": "SELECT * FROM claim_responses(-1)",
    "claim an unknown number": "SELECT * FROM claim_responses(NULL)",
    "claim for a century": "SELECT * FROM claim_responses(1, '100 years')",
    "claim for a day and a bit": "SELECT * FROM claim_responses(1, '1 day 1 microsecond')",
    "claim for no time": "SELECT * FROM claim_responses(1, '0')",
    "claim into the past": "SELECT * FROM claim_responses(1, '-1 hour')",
    "claim without an end": "SELECT * FROM claim_responses(1, NULL)",
    "claim under a name of 10 MB": "SELECT * FROM claim_responses(1, '1 hour', repeat('x', 10000000))",
    "answer with no token": "SELECT complete_response(NULL, 1)",
    "answer with the token of nobody": "SELECT complete_response('00000000-0000-0000-0000-000000000000', 1)",
    "answer with a guessed token for each row": "SELECT complete_response((lpad(to_hex(n), 16, '0') || "
    "'0000000000000000')::uuid, 100) FROM generate_series(1, 1000) AS n",
    "fail each row with a guessed token": "SELECT fail_response((lpad(to_hex(n), 16, '0') || "
    "'ffffffffffffffff')::uuid, 'mine', retry => true) FROM generate_series(1, 1000) AS n",
    "hold each row with a guessed token": "SELECT heartbeat_response((lpad(to_hex(n), 16, '0') || "
    "'8000000000000000')::uuid, '1 day') FROM generate_series(1, 1000) AS n",
}
OF_PLAIN_WORKERS: Attacks = {
    "rewrite a result": "UPDATE llm_responses SET overall_score = 1, response_text = 'mine' "
    "WHERE status = 'S'",
    "fail what succeeded": "UPDATE llm_responses SET status = 'F' WHERE status = 'S'",
    "queue what is done": "UPDATE llm_responses SET status = 'QUEUED' WHERE status IN ('S', 'F')",
    "rewrite the reason of a failure": "UPDATE llm_responses SET error_message = 'mine' WHERE status = 'F'",
    "answer what another one holds": "UPDATE llm_responses SET status = 'S', overall_score = 100 "
    "WHERE lease_expires_at > now()",
    "take what another one holds": "UPDATE llm_responses SET status = 'P', task_id = 'mine' "
    "WHERE lease_expires_at > now()",
    "give back what another one holds": "UPDATE llm_responses SET status = 'QUEUED' "
    "WHERE lease_expires_at > now()",
    "a score above the best": "UPDATE llm_responses SET status = 'S', overall_score = 100.001",
    "a score that is no number": "UPDATE llm_responses SET status = 'S', overall_score = 'NaN'",
    "a score without end": "UPDATE llm_responses SET status = 'S', overall_score = 'Infinity'",
    "a score below the worst": "UPDATE llm_responses SET status = 'S', overall_score = -1e-300",
    "no state at all": "UPDATE llm_responses SET status = NULL",
    "a response of 20 MB": "UPDATE llm_responses SET response_text = repeat('x', 20000000)",
    "a reason of 20 MB": "UPDATE llm_responses SET status = 'F', error_message = repeat('x', 20000000)",
    "a word of 1 MB": "UPDATE llm_responses SET status = repeat('x', 1000000)",
    "a task of 10 MB": "UPDATE llm_responses SET task_id = (SELECT string_agg(md5(n::text), '') "
    "FROM generate_series(1, 312500) AS n)",
}
OF_READERS: Attacks = {
    "write a result": "UPDATE llm_responses SET status = 'S', overall_score = 100",
    "lock rows": "SELECT 1 FROM llm_responses FOR UPDATE",
}
OF_STAGERS: Attacks = {
    "write a score": "UPDATE llm_responses SET overall_score = 100",
    "write a response": "UPDATE llm_responses SET response_text = 'mine'",
    "write tokens of a model": "UPDATE llm_responses SET input_tokens = 0",
    "write a lease": "UPDATE llm_responses SET lease_expires_at = NULL",
    "write a token": "UPDATE llm_responses SET lease_token = gen_random_uuid()",
    "forget deliveries": "UPDATE llm_responses SET deliveries = 0",
    "move a row to another document": "UPDATE llm_responses SET document_id = document_id + 1",
    "change what a row asks": "UPDATE llm_responses SET connection_details = '{}'",
    "fail what another one holds": "UPDATE llm_responses SET status = 'F' WHERE lease_expires_at > now()",
    "fail what succeeded": "UPDATE llm_responses SET status = 'F', error_message = 'mine' WHERE status = 'S'",
}
# A role without any rights; the tables are looked at one by one.
OF_STRANGERS: Attacks = {
    f"read {table}": f"SELECT * FROM {table}"
    for table in ("docs", "batch_configs", "llm_responses", "current_llm_responses", "response_counts")
}
IN_DOC_EVAL: Attacks = {
    "read connections": "SELECT * FROM connections",
    "read batches": "SELECT * FROM batches",
    "read documents": "SELECT * FROM documents",
    "stop the staging of batches": "SELECT pg_advisory_lock(n) FROM generate_series(1, 100) AS n",
}
OF_READERS_IN_DOC_EVAL: Attacks = {
    "rename a batch": "UPDATE batches SET batch_name = 'mine'",
    "ask for staging": "UPDATE batches SET stage_requested_at = now()",
    "point a connection elsewhere": "UPDATE connections SET base_url = 'http://mine.invalid'",
    "add a prompt": "INSERT INTO prompts (name, prompt_text) VALUES ('mine', 'mine')",
    "remove files": "DELETE FROM batch_documents",
    "use up numbers of batches": "SELECT nextval('batches_id_seq')",
    "lock batches": "DO $$BEGIN LOCK TABLE batches IN ACCESS EXCLUSIVE MODE; END$$",
    "lock a batch": "SELECT 1 FROM batches FOR UPDATE",
    "empty the files": "TRUNCATE batch_documents",
}
OF_STAGERS_IN_DOC_EVAL: Attacks = {
    "drop batches": "DROP TABLE batches CASCADE",
    "empty the batches": "TRUNCATE batches CASCADE",
    "change a table": "ALTER TABLE batches ADD COLUMN mine int",
    "say it is another version": "UPDATE doceval_doc_eval_version SET version_num = '9999'",
    "turn the numbers of batches back": "SELECT setval('batches_id_seq', 1)",
    "reserve all numbers of batches": "SELECT advance_numbers('batches', 2147483647)",
    "give rights away": "GRANT ALL ON batches TO PUBLIC",
}
_KNOWLEDGE: dict[str, list[Attacks]] = {
    "doceval_worker": [OF_PROCESSORS_AND_READERS, OF_WORKERS],
    "doceval_plain_worker": [OF_PROCESSORS_AND_READERS, WITHOUT_THE_FUNCTIONS, OF_PLAIN_WORKERS],
    "doceval_reader": [OF_PROCESSORS_AND_READERS, WITHOUT_THE_FUNCTIONS, OF_READERS],
    "doceval_stager": [WITHOUT_THE_FUNCTIONS, OF_STAGERS],
    STRANGER: [OF_PROCESSORS_AND_READERS, WITHOUT_THE_FUNCTIONS, OF_READERS, OF_STRANGERS],
}
_DOC_EVAL: dict[str, list[Attacks]] = {
    "doceval_worker": [IN_DOC_EVAL],
    "doceval_plain_worker": [IN_DOC_EVAL],
    "doceval_reader": [OF_READERS_IN_DOC_EVAL],
    "doceval_stager": [OF_STAGERS_IN_DOC_EVAL],
    STRANGER: [IN_DOC_EVAL],
}


def attacks(role: str) -> Iterator[tuple[Schema, str, str]]:
    """All that a role is to try: database, what it is called, statement."""
    for each in (OF_EVERYBODY, OF_EVERYBODY_IN_KNOWLEDGE, *_KNOWLEDGE[role]):
        yield from ((Schema.KNOWLEDGE, name, statement) for name, statement in each.items())
    for each in _DOC_EVAL[role]:
        yield from ((Schema.DOC_EVAL, name, statement) for name, statement in each.items())
