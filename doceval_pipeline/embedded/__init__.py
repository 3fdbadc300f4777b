"""The PostgreSQL that comes in a wheel: its data folder, its start and its stop. No schema, no SQL."""
