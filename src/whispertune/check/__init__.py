"""Checks of data before training: audio, text, splits, and a model's opinion of the transcripts."""
