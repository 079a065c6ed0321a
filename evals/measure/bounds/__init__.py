"""How much attention's mixing matters, and how far an edit carries.

A model and windows of text come in. Measured distances and upper bounds on them come out, for each
block.
"""
