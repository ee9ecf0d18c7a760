"""Reports: a page, plots and tables about one run, or several runs compared."""
