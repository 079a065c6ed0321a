"""Tasks of copying alone: words that nobody knows, or letters, and then the same again."""
