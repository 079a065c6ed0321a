"""Texts whose given continuations are rated: how likely each is, and whether it is the greedy one.

Shape letters: B rows, T tokens, Q continuations, K tokens of all of them, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel

from evals.running.forward import POSITIONS_AT_ONCE, head_of
from evals.running.runs import Run
from evals.sweep.batch import Columns, Edits, under_edits
from evals.sweep.shared_prefixes import Branch
from surgery.selection import Selection


@dataclass(frozen=True)
class Continuations:
    """Rows that go through the model together, and what is asked of each.

    - `rows`: token ids that are read; shorter ones are padded on the right.
    - `asked`: for each row its continuations, whose last token is predicted by the row's last.
    """

    rows: Sequence[Sequence[int]]
    asked: Sequence[Sequence[Sequence[int]]]

    def __len__(self) -> int:
        return len(self.rows)

    def measure(
        self, model: PreTrainedModel, tree: Sequence[Branch], edit: Edits
    ) -> Iterator[tuple[Selection, Columns]]:
        """As `evals.sweep.batch.Batch`; columns of each continuation, row by row.

        - `log_likelihood`: float64 [Q], in nats.
        - `greedy`: bool [Q], whether each of its tokens is the most likely one.
        """
        longest = max(map(len, self.rows))
        tokens = torch.stack([pad(torch.tensor(row), (0, longest - len(row))) for row in self.rows])
        return under_edits(model, tokens, tree, edit, partial(self._columns, model))

    @torch.inference_mode()
    def _columns(self, model: PreTrainedModel, run: Run, base: Run | None) -> Columns:
        head, (row_K, place_K, target_K), lengths = head_of(model), *self._tokens()
        # Softmax, argmax and sum in the model's own dtype, as lm-eval's model for transformers.
        likelihoods, right = [], []
        for some in torch.split(torch.arange(len(row_K)), POSITIONS_AT_ONCE):
            log_p = head(run.hidden[row_K[some], place_K[some]]).log_softmax(-1)
            true = target_K[some].to(log_p.device)
            likelihoods.append(log_p.gather(-1, true.unsqueeze(-1)).squeeze(-1))
            right.append(log_p.argmax(-1) == true)
        summed = [float(part.sum()) for part in torch.split(torch.cat(likelihoods).cpu(), lengths)]
        greedy = [bool(part.all()) for part in torch.split(torch.cat(right).cpu(), lengths)]
        return {"log_likelihood": np.asarray(summed), "greedy": np.asarray(greedy)}

    def _tokens(self) -> tuple[torch.Tensor, list[int]]:
        """Of every token asked for its row, the place before it and itself, [3, K]; lengths [Q]."""
        asked = [
            (row, len(read) - len(tokens), tokens)
            for row, (read, some) in enumerate(zip(self.rows, self.asked, strict=True))
            for tokens in some
        ]
        flat = [
            (row, place, token)
            for row, first, tokens in asked
            for place, token in enumerate(tokens, first)
        ]
        return torch.tensor(flat).T, [len(tokens) for _, _, tokens in asked]
