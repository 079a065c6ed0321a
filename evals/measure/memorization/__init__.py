"""What a model recites.

Passages and a loaded model come in. Measures of every passage come out, with a summary of the
model and its baseline.
"""
