"""A search for better settings: trials on the validation set, pruned early, the winner confirmed on more seeds."""
