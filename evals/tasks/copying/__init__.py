"""A task of copying alone: made-up words, then the same words again."""
