"""The model card: README.md from a manifest and a report; it keeps what its user wrote."""
