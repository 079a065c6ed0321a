"""Edits as tensors.

In: a plan, and an opened checkpoint or a loaded model. Out: the new tensors, to store or to apply.
"""
