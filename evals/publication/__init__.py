"""What may be published of a report.

An evaluation's report comes in. What `push` may send comes out: figures, names, and sentences that
are written again from the figures, so that none can hold a passage's text.
"""
