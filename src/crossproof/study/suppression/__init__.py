"""Removing chosen interactions from MLPs: what it does to a behaviour, and to everything else."""
