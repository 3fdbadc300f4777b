"""Notifies a receiver outside of this installation: which messages are pending, and how they are sent."""
