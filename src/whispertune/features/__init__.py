"""From a waveform to the log-mel of the speech, and the selection of encoder frames."""
