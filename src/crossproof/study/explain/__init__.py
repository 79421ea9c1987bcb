"""On which tokens is a feature active, said in words that are tested on other texts; open `study.py` first."""
