"""How much attention's mixing matters, and how far an edit can carry.

A model and windows of text come in; measured distances and upper bounds, block by block, come out.
"""
