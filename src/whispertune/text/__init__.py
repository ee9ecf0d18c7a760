"""Text: languages, Whisper's tokenizer and prompts, normalisation for scoring."""
