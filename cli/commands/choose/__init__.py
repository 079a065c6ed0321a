"""Commands that choose what to edit."""
