"""The configuration database: evaluation files, batches and their files. Knows no other database."""
