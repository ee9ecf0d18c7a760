"""Formats that corrected transcripts are written in."""

ENDINGS = {
    "textgrid": ".TextGrid",
    "eaf": ".eaf",
    "srt": ".srt",
    "vtt": ".vtt",
    "txt": ".txt",
    "tsv": ".tsv",
    "audacity": ".labels.txt",
}
"""The ends of their files' names."""
