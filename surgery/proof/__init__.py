"""Proves that a result is what it claims to be.

In: an exported folder, with or without its source. Out: checks, each with a detail.
"""
