"""Corpora on disk -> rows, one file a format."""
