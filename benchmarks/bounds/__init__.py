"""How much attention's mixing matters to each block, measured and bounded (docs/cost.md)."""
