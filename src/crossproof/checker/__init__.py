"""The independent checker of certificates: one file, `check.py`, that needs numpy and python-flint and nothing of ours.

    python check.py FOLDER

It reads a certificate (docs/certificates.md), derives the bound again with its own arithmetic, counts its own
operations, and accepts or refuses. It imports nothing of crossproof, so that a mistake there cannot be repeated here.
"""
