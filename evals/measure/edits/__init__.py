"""Many edits of one model, measured in memory.

A model, passages and held-out windows come in; what each edit leaves recited and what it costs
comes out. What edits share is computed once.
"""
