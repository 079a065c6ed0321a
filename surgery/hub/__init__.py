"""The Hugging Face Hub.

In: the name of a model or data set. Out: a folder or rows, with their commit, or a one-line error.
"""
