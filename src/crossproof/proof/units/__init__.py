"""What leaves a unit of a model, if what enters it is known up to a distance: one file a unit, one lemma a bound.

    around.py     a point known up to a distance, row by row; how far a matrix stretches
    smooth.py     the activation functions of numbers with radii
    accounts.py   what features make of a neuron, and how far that is from the truth: dominant, masses, pairs
    readout.py    how far what a neuron may be off by moves the residual stream, the logits, their differences
    mlp.py        an MLP that a dictionary reaches
    norms.py      LayerNorm and RMSNorm
    attention.py  softmax attention
    loss.py       the loss, from the last site

Everything is on `arithmetic.ball.Ball`: true whatever float64 rounds, and counted. docs/proofs.md has the lemmas by
these numbers: L1, L2, L4 to L10.
"""
