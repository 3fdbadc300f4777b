"""Invariants of stored documents: they equal the bytes that were read from their files."""

from sqlalchemy import text

from doceval_pipeline.batches.invariants.invariant import (
    BATCH_IN_SCOPE,
    HAS_CELLS,
    SAMPLE_BYTES,
    Database,
    Invariant,
)

_NOT_BASE64 = "22023"  # invalid_parameter_value
_STAGED = f"""
    SELECT DISTINCT f.batch_id, f.knowledge_document_id AS document_id, f.sha256, f.file_size
    FROM batch_documents f JOIN batches b ON b.id = f.batch_id
    WHERE f.state = 'STAGED' AND b.archived_at IS NULL AND b.status NOT IN ('SAVED', 'FAILED_STAGING')
      AND {BATCH_IN_SCOPE}
"""
# A document that several batches share may be drawn for each of them, but is decoded once.
_DRAWN = text(f"""
    SELECT DISTINCT ON (document_id) batch_id, document_id, sha256 FROM (
        SELECT batch_id, document_id, sha256, row_number() OVER chance AS n,
               sum(file_size) OVER chance AS bytes
        FROM ({_STAGED}) AS staged
        WINDOW chance AS (PARTITION BY batch_id ORDER BY hashint8extended(document_id, :seed))) AS shuffled
    WHERE CAST(:sample AS int) IS NULL OR n = 1 OR (n <= :sample AND bytes <= {SAMPLE_BYTES})
    ORDER BY document_id, batch_id
""")
_OTHER_CONTENT = text("""
    SELECT h.batch_id, 'docs.id ' || h.document_id AS subject,
           CASE WHEN d.id IS NULL THEN 'the document is missing'
                ELSE 'the document has another sha256 or size than its file had' END AS problem
    FROM unnest(CAST(:batch_id AS int[]), CAST(:document_id AS bigint[]), CAST(:sha256 AS text[]),
                CAST(:file_size AS bigint[])) AS h(batch_id, document_id, sha256, file_size)
    LEFT JOIN docs d ON d.id = h.document_id
    WHERE d.sha256 IS DISTINCT FROM h.sha256 OR d.file_size IS DISTINCT FROM h.file_size
    ORDER BY h.batch_id, h.document_id
""")
# decode() raises on anything that is not base64. Testing with a pattern first would cost more than the rest
# of the query, and would fail on contents of more than 268,435,455 characters.
_DECODES_TO_OTHER = text("""
    SELECT h.batch_id, 'docs.id ' || h.document_id AS subject,
           CASE WHEN d.id IS NULL THEN 'the document is missing'
                ELSE 'the content does not decode to the original bytes' END AS problem
    FROM unnest(CAST(:batch_id AS int[]), CAST(:document_id AS bigint[]), CAST(:sha256 AS text[]))
        AS h(batch_id, document_id, sha256)
    LEFT JOIN docs d ON d.id = h.document_id
    WHERE encode(sha256(decode(d.content, 'base64')), 'hex') IS DISTINCT FROM h.sha256
    ORDER BY h.batch_id, h.document_id
""")
_LEFT = text(f"""
    SELECT b.id AS batch_id, 'file ' || d.filepath AS subject, 'it is assigned but not stored' AS problem
    FROM batch_documents f JOIN batches b ON b.id = f.batch_id JOIN documents d ON d.id = f.document_id
    WHERE f.state = 'ASSIGNED' AND {HAS_CELLS}
    ORDER BY b.id, d.filepath COLLATE "C"
""")

FILES_ARE_STORED = Invariant(
    name="files-are-stored",
    statement="every staged file refers to a stored document with its sha256 and size",
    runs_in=(Database.KNOWLEDGE,),
    input_query=text(f"{_STAGED} ORDER BY 1, 2"),
    query=_OTHER_CONTENT,
    fix="run doceval stage {batch_id} to store a missing document again; restore a differing one from a "
    "backup",
)
CONTENTS_DECODE = Invariant(
    name="contents-decode",
    statement="every stored document decodes to the original bytes",
    runs_in=(Database.KNOWLEDGE,),
    input_query=_DRAWN,
    query=_DECODES_TO_OTHER,
    bisect_on=_NOT_BASE64,
    fix="restore docs from a backup, or delete the rows and run doceval stage {batch_id} again",
)
NOTHING_LEFT_TO_STORE = Invariant(
    name="nothing-left-to-store",
    statement="every file of a staged batch is stored",
    runs_in=(Database.DOC_EVAL,),
    query=_LEFT,
    fix="run doceval stage {batch_id}",
)
INVARIANTS = (FILES_ARE_STORED, CONTENTS_DECODE, NOTHING_LEFT_TO_STORE)
