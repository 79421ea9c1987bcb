"""Every metric against Shapley-Taylor values on units of real models. Start with `study.py`."""
