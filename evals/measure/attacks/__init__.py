"""What an attacker recovers.

Passages, a base and an edited model come in. For each attack, the share of passages that it
recovers from either model comes out, beside its share of text that no model was trained on.
"""
