"""Tries a processor, in any language, against its contract: a scratch database, nasty documents, kills.

Knows neither doc_eval nor Dagster; the processor knows only a database and an endpoint on loopback.
"""
