"""Ablation fidelity: how much of what an MLP does is kept when each neuron hears only some of its features."""
