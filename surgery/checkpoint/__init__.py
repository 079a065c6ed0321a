"""Checkpoints on disk: reading them strictly, writing them whole or not at all."""
