"""One run: its recipe, session and stages."""
