"""What a completed batch says: figures, an HTML page and markdown, from plain data. No database, no files."""
