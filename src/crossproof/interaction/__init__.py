"""How the features of a dictionary interact in the units of a model: on tensors alone, anybody's model and dictionary.

Start with `contributions.py`: what each feature adds to each neuron. On it stand `interpretations/` (cheap accounts of
a neuron and what interaction makes them miss), the metrics (`pairs.py`, `neurons.py`, `weights.py`, `cooccurrence.py`,
`probabilistic.py`), their reference `shapley.py`, and the training penalty `penalty.py` with its `controls.py`.
"""
