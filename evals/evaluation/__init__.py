"""The whole evaluation.

Two models and a plan of what to measure come in; a checked report and the pages made from it come
out.
"""
