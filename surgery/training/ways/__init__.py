"""Ways to make a model forget passages: each names the teacher on them. One file a way."""
