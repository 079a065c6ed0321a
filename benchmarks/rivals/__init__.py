"""Other ways to make a model forget passages, to compare with attention surgery.

Each file holds one, written from its paper. A rival is a function that takes a model and a `Bed`,
changes the model's weights step by step, and yields after each step. The caller stops it once the
passages are forgotten, or when its time is up. `python -m benchmarks.rivals --help` runs them.
"""
