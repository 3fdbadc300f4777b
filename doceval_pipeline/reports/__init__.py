"""Reports on a batch: figures, an HTML page and markdown, from plain data. No database, no files."""
