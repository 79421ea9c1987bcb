"""Real numbers with an error that is known: midpoint and radius, and how many operations they took.

`ball.py` first: every bound is computed in it, once with numbers and once with shapes alone (`Ball.unknown`), where the
same code only counts. `tally.py` says what counts as an operation, `spectral.py` certifies spectral norms.
"""
