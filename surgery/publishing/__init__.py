"""Publishing.

An exported folder comes in; what may leave the machine, and nothing else, goes to the Hub as one
commit.
"""
