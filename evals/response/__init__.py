"""What editing any heads or blocks would do, to first order, from a few passes over the text.

In come a loaded model, held-out windows and passages; out go the responses of every head in every
variant, which add up for any set of them. benchmarks/estimates.py prints how near they come.
"""

from __future__ import annotations

from evals.response.engine import respond
from evals.response.responses import Units
from evals.response.texts import Text, heldout_text, margins_text

__all__ = ["Text", "Units", "heldout_text", "margins_text", "respond"]
