"""Scoring: word and character error rates, and whether a difference between two of them means anything."""
