"""What editing any heads or blocks would do, to first order, from a few passes over the text.

In come a loaded model, held-out windows and passages; out go the responses of every head in every
variant, which add up for any set of them. benchmarks/estimates.py prints how near they come.
"""

from __future__ import annotations

from evals.response.engine import DRAWS, fits_alone, respond
from evals.response.estimating import Estimates, estimable, estimate, front_of, with_estimates
from evals.response.picture import draw_estimates
from evals.response.responses import Estimate, Responses
from evals.response.texts import Text, heldout_text, passages_text
from evals.response.units import Units

__all__ = [
    "DRAWS",
    "Estimate",
    "Estimates",
    "Responses",
    "Text",
    "Units",
    "draw_estimates",
    "estimable",
    "estimate",
    "fits_alone",
    "front_of",
    "heldout_text",
    "passages_text",
    "respond",
    "with_estimates",
]
