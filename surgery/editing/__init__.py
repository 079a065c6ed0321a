"""Edits, as tensors.

A plan and an opened checkpoint, or a loaded model, come in; the tensors that the edit writes come
out, to be stored or put in force.
"""
