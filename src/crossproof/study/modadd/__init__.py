"""What features are, and what interacts, in a network whose algorithm is known: addition of two numbers modulo p."""
