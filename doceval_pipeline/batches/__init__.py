"""The life of a batch across both databases: staging, completion, report, audit.

Plain Python, called by `defs` and by the command line alike; knows no Dagster.
"""
