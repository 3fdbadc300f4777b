"""A digest over many rows, made by PostgreSQL: the same rows, the same digest, in whatever order."""


def digest_sql(row: str) -> str:
    """An SQL aggregate over `row`, an expression of type text.

    A sum of digests does not depend on the order of rows and needs no memory for them. Fifteen hex
    digits fit a bigint.
    """
    sha256 = f"encode(sha256(convert_to({row}, 'UTF8')), 'hex')"
    return f"coalesce(sum(('x' || left({sha256}, 15))::bit(60)::bigint), 0)"
