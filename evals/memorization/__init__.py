"""What a model recites.

Passages and a loaded model come in; measures of every passage, and their summary beside a
baseline's, come out.
"""
