"""Whether features that interact belong together: `study.py` measures, `results.py` shows."""
