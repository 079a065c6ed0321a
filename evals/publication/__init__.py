"""What of a report may leave this machine.

In comes the report of an evaluation, out of it what `push` may send: figures, names, and sentences
that are made anew, so that no passage's text can stand in one.
"""
