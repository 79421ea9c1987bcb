"""Pairs never seen together as leads for inputs on which the model fails: `pairs.py` names them, `search.py` tries."""
