"""Ways to make a model forget passages: each is a loss on them, by a teacher or without one.

One file a way.
"""
