"""Runs as people look at them: a page, plots, tables; one run, or several compared."""
