"""Interaction through a norm's scale: the one thing in a LayerNorm or an RMSNorm that is not linear.

Start with `features.py`: a dictionary as a norm sees it, and how loudly each feature is heard behind it (`reach.py`).
On it stand the scale with and without a feature (`scale.py`), the tables over pairs and the score of a token
(`pairs.py`), and what is found by running a norm, alone or with an MLP behind it, without some features (`removal.py`).
"""
