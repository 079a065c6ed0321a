"""Runs benchmarks through lm-eval.

Task names and a loaded model come in; scores of every document come out.
"""
