"""Languages, Whisper's tokenizer and prompts, normalisation for scoring."""
