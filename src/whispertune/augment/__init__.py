"""Augmentation of training data: on waveforms (speed, noise, dropped bands and chunks) and on log-mel.

Every draw comes from a generator seeded with (seed, view, utterance id), so it is the same whatever the
number of workers or processes and whatever was augmented before.
"""
