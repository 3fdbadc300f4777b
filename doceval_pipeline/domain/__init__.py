"""Records that all layers share: frozen dataclasses without I/O. Imports nothing else of this package."""
