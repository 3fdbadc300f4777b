"""Files: the safe walk through a folder, reading, hashing and encoding, content types. No database."""
