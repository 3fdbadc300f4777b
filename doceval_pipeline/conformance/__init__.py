"""Tests a processor in any language against its contract, with a scratch database and a fake model.

Independent of doc_eval and Dagster. The processor sees only a database and an endpoint on loopback.
"""
