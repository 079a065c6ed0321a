"""Which edit to make: many of them measured together (`sweep`), or searched for (`search`)."""
