"""The file of an archived batch: its format, writer, reader and checks. No database."""
