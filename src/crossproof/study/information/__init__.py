"""How many bits encoded texts take, against what they explain: `coding.py` counts them, `study.py` compares."""
