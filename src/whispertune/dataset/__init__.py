"""Rows -> the windows of a split, every one looked at before compute is spent."""
