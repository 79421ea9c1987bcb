"""Training models that can be proved: the loss together with a bound on it.

`objective.py` is the bound, differentiable and per item; `train.py` the loop; `build.py` makes the members of the zoo
that are models of windows.
"""
