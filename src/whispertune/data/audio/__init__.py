"""From audio files to waveforms."""
