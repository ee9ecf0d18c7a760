"""Divide a corpus into train, valid and test."""
