"""The machine: processes, precision, memory, files, what the user sees."""
