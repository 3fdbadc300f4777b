"""The file that an archived batch stands in: how it is written, read and checked. No database."""
