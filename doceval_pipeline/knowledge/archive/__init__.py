"""Dumps the rows of a batch in KnowledgeDocuments into an archive, and loads them again."""
