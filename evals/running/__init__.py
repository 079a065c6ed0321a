"""Running a causal language model, whole or from a block on.

Token ids come in; hidden states, predictions of suffix tokens, decoded tokens come out, whatever
the batch or number of processes.
"""
