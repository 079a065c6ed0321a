"""Publishes an exported folder: what may leave the machine goes to the Hub as one commit."""
