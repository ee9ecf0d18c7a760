"""Audio files -> waveforms."""
