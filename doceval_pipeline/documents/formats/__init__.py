"""Formats that are told by their structure: each module answers for one family, from bounded reads."""
