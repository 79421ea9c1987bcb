"""What a penalty on interactions buys, and what it costs: a sweep over weights, seeds, features and models."""
