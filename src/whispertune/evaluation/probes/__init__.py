"""What clips do not show: timestamps, long form, text where nothing is said."""
