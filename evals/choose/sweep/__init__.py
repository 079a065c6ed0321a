"""Measures many edits of one model together.

Edits, passages, and held-out windows come in. What each edit costs and leaves recited comes out, as
records, a table, and pictures.
"""
