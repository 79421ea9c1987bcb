"""Ways to prove a bound, from brute force to the most compact, each with the operations that it takes.

A rung is a function `verify(weights, data, witness)` that computes with balls and so counts while it computes; called
with shapes alone it counts and does nothing else. It never branches on a number. What chooses the witness stands beside
it and is not counted.
"""
