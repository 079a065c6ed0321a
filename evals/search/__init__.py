"""Which blocks, heads and variants to edit: chosen on one half of the text, told on the other.

In come a loaded model, passages, held-out windows and a goal; out go the edit that meets the goal
at the least cost, the front of all that was measured, and a plan to export.
"""
