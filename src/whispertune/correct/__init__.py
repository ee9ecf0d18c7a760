"""Correcting transcripts on a local page: the session with its journal, the server, the order, the files it writes."""
