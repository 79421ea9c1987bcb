"""Which units of a model interact most, and what a penalty changes: `study.py` measures, `results.py` shows."""
