"""Plans and manifests: checked records, read from and written to JSON files."""
