"""The model under study.

`subject.py` is the one class the other rooms use: load a model, name its sites, read and patch activations, measure
losses. `sites.py` finds sites by TransformerLens names and globs, `units.py` holds a block's weights in one convention
and recomputes the block from them, `doctor.py` tests on a given model everything the library relies on. `tokens.py` is
a batch of texts, `text/` writes labelled stories, `zoo/` holds small models trained on them.

Open `subject.py` first.
"""
