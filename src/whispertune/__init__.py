"""Fine-tune a pretrained Whisper on your own speech."""

__version__ = "0.1.0"
