"""Chooses which blocks and heads to edit on one half of the text, and measures on the other.

A loaded model, passages, held-out windows, and a goal come in. The edit that meets the goal at the
least cost, the Pareto front of all measured edits, and a plan to export come out.
"""
