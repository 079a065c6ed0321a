"""`zero`: the attention branch adds nothing.

**Formula:** M_h = 0, c_h = 0, and the output bias b_O is dropped when the whole block goes.

**Limits:** where a branch mostly adds a constant, its mean is lost too.

**Source:** the attention drop of He, Sun, Shen and Li, *What Matters in Transformers? Not All
Attention is Needed* (LLM-Drop, arXiv 2406.15786), section 3.
"""

from __future__ import annotations

from surgery.variants.affine import Affine, Kind, Sources

NAME = "zero"
SUMMARY = "the attention branch is removed and adds nothing"
KIND: Kind = "none"
FITTED = False


def affine(sources: Sources) -> Affine:
    """M = 0 and c = 0, whatever the weights are."""
    return Affine(weight=None, bias=None)
