"""Waveform -> log-mel of the speech, and which encoder frames are kept of it."""
