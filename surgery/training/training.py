"""How long and at which rate a model is trained, on how much text, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from surgery.errors import UnsupportedError
from surgery.fitting.calibration import Calibration, Text

STEPS = 80
ROWS = 16
"""Windows of text of a step."""
WINDOW = 128
"""Tokens of a window, fewer for a model with fewer positions."""
LEARNING_RATE = 1e-3
"""The rate for all weights of models as wide as those that it was measured on. Wider ones get less,
by their width (Yang et al. 2022, arXiv 2203.03466)."""
_WIDTH = 192
ADAPTERS_RATE = 4e-3
"""The rate for adapters, whatever the width: it was measured at widths of 192 to 2,048
(docs/beds/others.md)."""
RANK = 8
"""The rank of adapters that are saved as they are, unless another one is given."""
MOST_READS = 10
"""How often a token of the text may be read at most."""


def propose_steps(windows: int) -> str:
    """What to do if there are only so many windows of text to train on."""
    steps = windows * MOST_READS // ROWS
    fewer = f", or train for fewer steps: this is enough for {steps}"
    return "give more text" + (fewer if steps else "")


def choose_rate(model: Any, rank: int) -> float:
    """The learning rate of adapters of a rank, or for 0, of all weights."""
    return ADAPTERS_RATE if rank else LEARNING_RATE * scale_rate(model)


def scale_rate(model: Any) -> float:
    """What to multiply a learning rate by that suits all weights of narrow models: 1 or less."""
    return min(1.0, _WIDTH / float(model.config.hidden_size))


@dataclass(frozen=True)
class Schedule:
    """How long to train, and the seed of the order in which windows are read.

    `rank`: of the adapters to train; 0 and None: all weights. `learning_rate`: None: by
    `choose_rate`. `hardened`: someone who trains the model further is rehearsed.
    """

    steps: int = STEPS
    seed: int = 0
    rank: int | None = None
    learning_rate: float | None = None
    hardened: bool = False

    def tokenize(
        self,
        text: Text,
        tokenizer: Any,
        dimensions: Any,
        advise: Callable[[int], str] = propose_steps,
    ) -> Calibration:
        """Reads as much text as the steps need. Raises `SamplesError` for too little text, and
        `UnsupportedError` for adapters that are larger than what they adapt.

        `advise`: as for `Text.tokenize`.
        """
        if (self.rank or 0) > dimensions.d:
            raise UnsupportedError(
                "adapters of a rank above the width of the model are larger than its weights",
                where="`adapters`",
                expected=f"at most {dimensions.d:,}",
                got=f"{self.rank:,}",
                fix="give a lower rank, such as 8, or leave out `adapters` to train all weights",
            )
        rows = self.steps * ROWS
        return text.tokenize(
            tokenizer,
            dimensions,
            window=WINDOW,
            most_tokens=rows * min(WINDOW, dimensions.max_positions),
            fewest=-(-rows // MOST_READS),
            advise=advise,
        )
