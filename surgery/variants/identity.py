"""`identity`: every token attends to itself alone.

**Formula:** M_h = W_V^h, c_h = b_V^h, so the branch is W_O (W_V x + b_V) + b_O.

**Limits:** later blocks get the values of the token itself at a scale that training never showed
them; a single block can cost more than removing the branch (measure before choosing).

**Source:** the short-circuit of Menta, Agrawal and Agarwal, *Analyzing Memorization in Large
Language Models through the Lens of Model Attribution*, NAACL 2025 (arXiv 2501.05078), section 3:
the attention matrix is replaced by the identity matrix.
"""

from __future__ import annotations

from surgery.variants.affine import Affine, Kind, Sources

NAME = "identity"
SUMMARY = "each token attends to itself alone (the short-circuit): W_O (W_V x + b_V) + b_O"
KIND: Kind = "affine"
FITTED = False


def affine(sources: Sources) -> Affine:
    """M = W_V and c = b_V, the very tensors that were given."""
    return Affine(weight=sources.weight, bias=sources.bias)
