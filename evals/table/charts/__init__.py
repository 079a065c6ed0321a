"""Four charts in one style: dots with intervals, a front, lines by block, a grid of blocks × heads.

In: labels, values, intervals, and limits. Out: a chart, to save as PNG and SVG or to embed in a
page. Nothing here knows what was measured.
"""
