"""`mean`: the attention branch adds what it adds on average.

**Formula:** M_h = 0, c_h = the mean of z_h over the tokens of calibration text.

**Limits:** needs calibration text that resembles the model's use; keeps nothing of what attention
says about one token in particular.

**Source:** mean ablation, as in Wang, Variengien, Conmy, Shlegeris and Steinhardt,
*Interpretability in the Wild* (arXiv 2211.00593), section 2.
"""

from __future__ import annotations

from surgery.variants.affine import Affine, Kind, Sources

NAME = "mean"
SUMMARY = "the branch adds its mean on calibration text"
KIND: Kind = "constant"
FITTED = True


def affine(sources: Sources) -> Affine:
    """M = 0 and c = mean z."""
    return Affine(weight=None, bias=sources.fitted.mean)
