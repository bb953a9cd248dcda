"""Annotated videos: reading, checking and importing them."""
