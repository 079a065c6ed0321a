"""`context:K`: the model itself teaches, and sees only the last K tokens before each one.

A model needs a long context to recite a passage, and predicts ordinary text from a short one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from surgery.record.manifest import ShortContext
from surgery.training.losses import Divergence, make_logits


@dataclass(frozen=True)
class ByContext:
    """`tokens`: how many the teacher sees."""

    tokens: int
    advice = "let it see fewer tokens"
    calibration = None

    @property
    def record(self) -> ShortContext:
        return ShortContext(context=self.tokens)

    @contextmanager
    def open(self, model: Any) -> Iterator[Divergence]:
        """As for `Way`. The teacher is the model itself."""
        yield Divergence(Windowed(model, self.tokens))


@dataclass(frozen=True, eq=False)
class Logits:
    """`logits`: [B, T, V], as in what a model of the library returns."""

    logits: torch.Tensor


class Windowed:
    """A model that predicts each token from the last `window` tokens before it, and no others.

    It reads each of these windows as a row of its own. A mask would not do: through several blocks,
    a token sees much further than through one.
    """

    def __init__(self, model: Any, window: int) -> None:
        self.model, self.window = model, window

    @property
    def device(self) -> torch.device:
        found: torch.device = self.model.device
        return found

    def __call__(self, *given: Any, **options: Any) -> Logits:
        return self.forward(*given, **options)

    def forward(
        self, input_ids: torch.Tensor, use_cache: bool = False, logits_to_keep: int = 0
    ) -> Logits:
        """int64 [B, T] → the logits at the last `logits_to_keep` tokens, 0: at all T. A pass holds
        no more tokens than `input_ids`."""
        rows, length = input_ids.shape
        window, kept = min(self.window, length), logits_to_keep or length
        made = []
        if (near := kept - (length - window)) > 0:  # of these, the first window has all there is
            made.append(make_logits(self.model, input_ids[:, :window], near))
        if number := min(kept, length - window):
            windows = input_ids.unfold(1, window, 1)[:, -number:].reshape(-1, window)
            parts = torch.split(windows, max(1, rows * length // window))
            last = torch.cat([make_logits(self.model, part, 1) for part in parts])
            made.append(last.reshape(rows, number, -1))
        return Logits(torch.cat(made, 1))
