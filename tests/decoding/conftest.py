import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("model", "checkpoints")]  # their samples
