"""Proofs: a bound on a model's loss on given data, derived from an explanation of the model, sound to the last bit.

A *rung* is a way to prove such a bound: brute force runs the model on everything; the others know the model only
through the features of an explanation and pay far fewer operations for a bound that is a little worse. Finding an
explanation, and all choices that make a bound good (the *witness*), is free and trusted for nothing; verifying is
counted.

    arithmetic/      numbers with radii that count what is done with them
    statement.py     what is proved of which model and which data
    explanation.py   the features of a model that reads windows: which there are, and which are active where
    rungs/           the ways to prove, each the very code that is counted
    groups/          a bound for many inputs at once, for models of attention alone
    units/           any unit of any model, from a ball of inputs to a ball of outputs
    recursion/       the paper's own proof on ordinary models and crosscoders, and where it loses what
    training/        models and explanations that are trained on what is proved of them

Open `statement.py` first, then `rungs/brute.py`. The mathematics is in docs/proofs.md.
"""
