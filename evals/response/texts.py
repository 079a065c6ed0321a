"""The two texts, and what is asked of each: a scalar of the model's predictions.

Its gradient at the final hidden states is written down here; the rest is left to autograd. Random
numbers belong to a row and a draw, so that no figure depends on which rows are computed together.

Shape letters: N rows, n positions, D draws, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from evals.samples import Samples, Tokens

_SEED = 20_250_501

Score = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""logits [n, V], the head's weight [V, d], true tokens [n], random numbers [n, D] in [0, 1) ->
the gradient of the scalar at the n hidden states, for each draw [D, n, d]."""


@dataclass(frozen=True)
class Text:
    """Rows, and how a response to an edit is read.

    - `tokens`: int32 [N, prefix_length + S]; the scalar is of the S predictions after the prefix.
    - `score`: the scalar. `scale`: what its mean squared response is multiplied by.
    - `one_by_one`: instead of random numbers, each draw gets 1 at one position and 0 elsewhere.
    """

    tokens: Tokens
    prefix_length: int
    score: Score
    scale: float
    one_by_one: bool = False

    def random(self, rows: Sequence[int], draws: int) -> torch.Tensor:
        """Uniform numbers in [0, 1), float64 [rows, S, D]."""
        positions = self.tokens.shape[1] - self.prefix_length
        if self.one_by_one:
            return torch.eye(positions, draws).double().expand(len(rows), -1, -1)
        numbers = [
            [np.random.default_rng((_SEED, row, draw)).random(positions) for draw in range(draws)]
            for row in rows
        ]
        return torch.from_numpy(np.array(numbers)).transpose(1, 2).contiguous()


def heldout_text(windows: Tokens) -> Text:
    """Asks what an edit costs: an estimate of KL(base || edited), in nats per token.

    The scalar is the log-likelihood of tokens that are drawn from the model's own distribution.
    Half the mean square of its response is ½ Δ' F Δ, F being the Fisher information, which is the
    Hessian of the divergence. `windows`: int32 [N, T], of which all tokens but the first count.
    """
    return Text(windows, 1, _drawn_likelihood, 0.5 / (windows.shape[1] - 1))


def margins_text(samples: Samples) -> Text:
    """Asks how far each suffix token's margin moves, in nats: with S draws, one draw a token.

    The margin is the true token's logit less the log-sum-exp of all others. The likelihood itself
    would not do: where a model is certain, its gradient vanishes.
    """
    return Text(samples.tokens, samples.prefix_length, _margins, 1.0, one_by_one=True)


def _drawn_likelihood(
    logits: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, random: torch.Tensor
) -> torch.Tensor:
    p = logits.softmax(-1)
    cumulative = p.cumsum(-1, dtype=torch.float64)
    drawn = torch.searchsorted(cumulative, random * cumulative[:, -1:], right=True)
    drawn = drawn.clamp(max=logits.shape[-1] - 1)
    return functional.embedding(drawn.T, weight) - p.to(weight.dtype) @ weight


def _margins(
    logits: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, factors: torch.Tensor
) -> torch.Tensor:
    others = logits.scatter(-1, targets.unsqueeze(-1), float("-inf")).softmax(-1)
    gradient = functional.embedding(targets, weight) - others.to(weight.dtype) @ weight
    return factors.T.unsqueeze(-1).to(weight.dtype) * gradient
