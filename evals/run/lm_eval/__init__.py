"""Benchmarks through lm-eval, which nothing else imports.

Task names and a loaded model come in; scores of every document come out.
"""
