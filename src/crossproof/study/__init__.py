"""Studies: what the measurements are worth, found out by running them on models of which the answer is known.

Start with `metrics.py`: every pairwise metric of an MLP as one number per pair, so that they can be ranked against each
other. `ground_truth/` scores them on the planted model, `ranking/` against Shapley-Taylor values on real models.
"""
