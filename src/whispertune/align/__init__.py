"""Recordings with the text of what is said in them, but no times -> utterances."""
