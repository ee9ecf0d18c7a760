import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "model"))  # random_whisper.py
