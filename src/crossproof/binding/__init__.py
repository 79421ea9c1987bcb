"""What joins a subject and a crosscoder to `interaction/`, which knows neither.

Start with `bound.py`: which site of a crosscoder feeds each MLP of a subject. On it stand the measurement
(`interactions.py`) and training with the penalty (`penalty_term.py`, `train.py`).
"""
