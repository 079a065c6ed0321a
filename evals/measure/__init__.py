"""What models recite, what attackers recover, and what edits do to both.

Samples, windows, and loaded models come in. Numbers with intervals come out, without a word of how
they are shown.
"""
