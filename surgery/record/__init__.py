"""Plans, manifests, and reports: checked records, read from and written to JSON files."""
