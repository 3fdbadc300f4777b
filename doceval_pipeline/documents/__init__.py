"""Files on disk: walking folders safely, reading, hashing, encoding, content types. No database."""
