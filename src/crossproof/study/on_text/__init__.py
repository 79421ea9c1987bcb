"""The pairs that interact most, shown on texts that they were not chosen on, word by word."""
