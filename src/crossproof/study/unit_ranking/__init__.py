"""Metrics of attention layers and norms against Shapley-Taylor values, on real models. Start with `study.py`."""
