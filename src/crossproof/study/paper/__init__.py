"""Every study in a row, at two sizes: `plan.py` says which, with what settings; `config.py` what can be chosen."""
