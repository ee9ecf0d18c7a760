"""The data looked over before compute is spent on it: audio, text, sets, and what a model makes of them."""
