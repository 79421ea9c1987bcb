"""Model diffing: what fine-tuning does to features, and to interactions between features that stay as they were."""
