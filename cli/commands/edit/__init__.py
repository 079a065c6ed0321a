"""Commands that edit checkpoints and look at them."""
