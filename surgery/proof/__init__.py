"""Proof that a result is what it says.

An exported folder comes in, with its source or without; checks, each with what was seen, come out.
"""
