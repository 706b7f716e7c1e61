"""Time and memory against the number of tokens."""
