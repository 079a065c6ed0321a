"""The model card.

A manifest, the source's own card and a report's figures come in; README.md comes out, with
whatever its user wrote into it kept.
"""
