"""Trains an edited model on other text for a few steps, so that it regains what the cut cost.

In comes the folder of a cut and tokens of text. Out goes a folder whose constants are the cut's.
"""
