"""What must be true of both databases: each invariant is one query that returns the rows that offend.

Grouped by what they are about; `catalogue` lists them all, in the order of docs/invariants.md, and
`asking` asks them. Nothing here writes.
"""
