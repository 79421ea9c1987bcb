"""Tests work on tiny tensors: a second thread only costs, most of all on a machine that is busy."""

import torch

torch.set_num_threads(1)
