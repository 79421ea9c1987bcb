"""Every metric against a model whose interactions are known by construction. Start with `study.py`."""
