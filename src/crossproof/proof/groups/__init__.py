"""A bound for a whole group of inputs at once, for a model that is attention alone and data that are all inputs.

The model names the largest token of a window; the data are every window of tokens there is, each once, followed by its
largest. Windows are grouped by their last token, their largest token, and the band of tokens that each other position
holds one of; every group is bounded by a fractional program (L11) over tables of what a token at a position says.

    grouping.py      which groups there are; any labels give a partition
    tables.py        what is known of each token at each position, through a dictionary or exactly
    verify.py        the bound of every group, counted; its docstring is the algorithm
    brute.py         the same statement by running the model on every window, naively and from tables
    find.py          the witness, which is free and trusted for nothing

Open `verify.py` first.
"""
