"""Runs a causal language model, whole or from a block on.

Token ids come in. Hidden states, predictions of suffix tokens, and decoded tokens come out. They do
not depend on the batch or the number of processes.
"""
