"""Dumps the rows of a batch in doc_eval into an archive, and loads them again."""
