"""The dictionary: one sparse code per token that is read from and written to several sites of one or several models.

`config.py` says what a crosscoder and its training are (no torch), `codes.py` holds sparse codes and the products that
make a step cheap, `selection.py` the activation functions, `model.py` the crosscoder itself, `store.py` its files.
`losses.py` are the terms of the objective, `step.py` is one optimiser step, `fit.py` the loop around it, which knows no
language model, `buffer.py` shuffles activations; `reading.py` says which models are read, `train.py` binds training to
them and `evaluate.py` scores the result.

Open `model.py` first, then `fit.py`.
"""
