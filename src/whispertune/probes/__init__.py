"""What a word error rate on short clips does not show: timestamps, long recordings, text where nothing is said."""
