"""Formats that are recognised by their structure: one module per family, with bounded reads."""
