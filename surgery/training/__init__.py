"""Trains a model for a few steps: a cut, so that it regains abilities; or an intact model, so that
it forgets passages, as a teacher that does not know them teaches it.

In come a folder, or a model in memory, and tokens. What training may not change stays bit for bit.
"""
