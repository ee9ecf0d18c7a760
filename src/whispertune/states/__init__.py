"""From windows to encoder states, computed at each use or stored."""
