"""The embedded PostgreSQL from a wheel: data folder, start and stop. No schema, no SQL of tables."""
