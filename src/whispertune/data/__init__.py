"""From manifests and audio files to utterances and waveforms."""
