"""The model card.

A manifest, the source's own card and a report's figures come in. README.md comes out and keeps
what its user wrote into it.
"""
