"""Windows -> encoder states, computed at each use or stored."""
