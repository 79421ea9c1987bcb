"""The paper's proof carried out on crosscoders: `study.py` runs it, `results.py` says what it certifies and where it
loses how much."""
