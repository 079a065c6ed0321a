"""Measurements: what a model recites, what it still can do, and which blocks matter."""
