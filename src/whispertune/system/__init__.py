"""The machine: processes, precision, memory, files, terminal."""
