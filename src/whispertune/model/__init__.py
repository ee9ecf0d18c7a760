"""Whisper itself: encoder and decoder only."""
