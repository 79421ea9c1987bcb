"""Tests work on tiny tensors: a second thread only costs, most of all on a machine that is busy.

Properties are tried on the same examples each time, so that a change fails for what it changed. New examples:
`pytest --hypothesis-profile=default`.
"""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("again", derandomize=True)
settings.load_profile("again")
