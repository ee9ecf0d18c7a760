"""Encoder states that stay the same, kept: in memory, or in files that later runs read."""
