"""Ways to make a model forget passages: each names the teacher on them. One file a way."""

WAYS = ("context:8", "cut")
"""Ways that need no other model, in the order that our measurements recommend."""
