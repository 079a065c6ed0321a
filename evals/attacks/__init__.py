"""What an attacker gets.

Passages, a base and an edited model come in; of every attack, the share of passages that it
recovers from either, beside its share of text that was never trained on, comes out.
"""
