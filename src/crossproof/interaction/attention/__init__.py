"""What the features of a dictionary do to each other in attention layers: tensors only, one text (`Passage`) at a time.

Open `heads.py` first: what each feature contributes to the queries, keys and values of every head.
"""
