"""Gated MLPs, attention and norms whose interactions were put there, and how well metrics find them. See `study.py`."""
