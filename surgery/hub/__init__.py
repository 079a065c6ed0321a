"""The Hugging Face Hub.

A model's or a data set's name comes in; a folder or rows come out, with the commit they are of,
and what the Hub refuses in one line.
"""
