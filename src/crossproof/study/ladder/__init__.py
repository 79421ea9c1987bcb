"""What can be proved of models that read windows, rung by rung: how good, at what cost, and why."""
