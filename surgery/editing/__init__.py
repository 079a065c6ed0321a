"""Edits as tensors, of an opened checkpoint or a loaded model."""
