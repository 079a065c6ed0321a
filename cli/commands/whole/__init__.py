"""Commands that do the whole job."""
