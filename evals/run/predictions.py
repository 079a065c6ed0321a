"""Turns hidden states into a few numbers for each position or row, and never keeps logits.

The hidden states may come from a plain forward pass or from one resumed at any block.

Shape letters: B rows, S suffix tokens, T tokens, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import kl_div

from evals.run.forward import POSITIONS_AT_ONCE, Head
from surgery.reading.corpus import NOTHING

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: logits / temperature, all but the `top_k` largest removed.

    The default is the scheme of Hayes et al. 2024. Ties with the k-th largest logit
    stay in, as in transformers' TopKLogitsWarper.
    """

    top_k: int = 40
    temperature: float = 1.0


@dataclass(frozen=True)
class Predictions:
    """The result of one teacher-forced pass at each suffix position: [N, S], float32 but `greedy`.

    After the end of a shorter suffix, `greedy` repeats its `NOTHING`, which is so never wrong, and
    all others are 0.

    - `greedy`: int32, the most likely token given the true tokens before it.
    - `log_likelihood`: log p(true token), in nats.
    - `log_drawn`: log-probability of the true token under a `Sampling`, -inf if it is removed.
    - `entropy`: H(p) over the vocabulary, in nats. The last two are None if not requested.
    """

    greedy: npt.NDArray[np.int32]
    log_likelihood: Floats
    log_drawn: Floats | None = None
    entropy: Floats | None = None

    @staticmethod
    def concatenate(parts: Sequence[Predictions]) -> Predictions:
        """Rows of all parts, in order."""
        columns = zip(*(vars(part).values() for part in parts), strict=True)
        joined: Any = (None if c[0] is None else np.concatenate(c) for c in columns)
        return Predictions(*joined)


@torch.inference_mode()
def measure_predictions(
    hidden: torch.Tensor,
    head: Head,
    suffix: torch.Tensor,
    *,
    sampling: Sampling | None = None,
    distributions: bool = False,
) -> Predictions:
    """Measures every suffix position.

    `hidden`: [B, S, d], final hidden states of the token before each token of `suffix`, int64
    [B, S], `NOTHING` after the end of a shorter one. `sampling`: also measure log-probabilities
    under this scheme. `distributions`: also measure entropies.
    """
    states, targets = hidden.flatten(0, 1), suffix.flatten()
    pieces = [
        _measure(head(some).float(), true, sampling, distributions)
        for some, true in zip(
            torch.split(states, POSITIONS_AT_ONCE),
            torch.split(targets, POSITIONS_AT_ONCE),
            strict=True,
        )
    ]
    found = {
        name: torch.cat([piece[name] for piece in pieces]).view(suffix.shape).cpu().numpy()
        for name in pieces[0]
    }
    ended = (suffix < 0).cpu().numpy()
    for name, values in found.items():
        values[ended] = NOTHING if name == "greedy" else 0
    return Predictions(**found | {"greedy": found["greedy"].astype(np.int32)})


def _measure(
    logits: torch.Tensor,
    targets: torch.Tensor,
    sampling: Sampling | None,
    distributions: bool,
) -> dict[str, torch.Tensor]:
    # logits float32 [n, V], targets int64 [n] -> the columns of Predictions, each [n]
    index = targets.clamp(min=0).to(logits.device).unsqueeze(-1)
    true, total = logits.gather(-1, index).squeeze(-1), logits.logsumexp(-1)
    found = {"greedy": logits.argmax(-1), "log_likelihood": true - total}
    if sampling is not None:
        found["log_drawn"] = _log_drawn(logits, true, sampling)
    if distributions:
        p = (logits - total.unsqueeze(-1)).exp_()
        # -Σ p log p; near certainty, rounding could leave less than 0
        found["entropy"] = (total - _dot(p, logits)).clamp_(min=0)
    return found


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    # [n, V], [n, V] -> [n], without a third array of that size
    return torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).flatten()


def _log_drawn(logits: torch.Tensor, true: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    k, vocabulary = sampling.top_k, logits.shape[-1]
    if k >= vocabulary:
        return true / sampling.temperature - (logits / sampling.temperature).logsumexp(-1)
    top = logits.topk(k + 1, dim=-1).values
    smallest = top[:, k - 1]
    total = (top[:, :k] / sampling.temperature).logsumexp(-1)
    tied = (top[:, k] == smallest).nonzero().flatten()
    if len(tied):  # more than k are in: sum over all of them
        kept = logits[tied].masked_fill(logits[tied] < smallest[tied, None], float("-inf"))
        total[tied] = (kept / sampling.temperature).logsumexp(-1)
    return (true / sampling.temperature - total).masked_fill(true < smallest, float("-inf"))


class TextScores(NamedTuple):
    """Of text, at each token: its negative log-likelihood, whether it is the most likely one, and
    the KL divergence from the base, 0 for the base itself. In nats, [B, T]."""

    nll: Floats
    right: Flags
    kl: Floats


@torch.inference_mode()
def measure_heldout(
    hidden: torch.Tensor, base: tuple[torch.Tensor, Head] | None, head: Head, targets: torch.Tensor
) -> TextScores:
    """Scores text, token by token.

    KL(base || edited) = Σ_v p(v) (log p(v) - log q(v)), p the base model's predicted distribution
    and q the edited model's. The logits of a few positions exist at a time.

    `hidden`: [B, T, d], final hidden states at the tokens before each of `targets` (int64 [B, T]);
    `base`: those of the base model, with its head; None to measure the base itself.
    """
    states, true = hidden.flatten(0, 1), targets.flatten()
    log_likelihood, best, divergence = [], [], []
    for begin in range(0, len(states), POSITIONS_AT_ONCE):
        some = slice(begin, begin + POSITIONS_AT_ONCE)
        logits = head(states[some]).float()
        index = true[some].to(logits.device).unsqueeze(-1)
        log_likelihood.append(logits.gather(-1, index).squeeze(-1) - logits.logsumexp(-1))
        best.append(logits.argmax(-1) == index.squeeze(-1))
        if base is not None:
            before, its_head = base
            log_p = its_head(before.flatten(0, 1)[some]).float().log_softmax(-1)
            log_q = logits.log_softmax(-1)
            divergence.append(kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1))
    likelihood, right, kl = (
        torch.cat(some or [torch.zeros(len(true))]).view(targets.shape).cpu().numpy()
        for some in (log_likelihood, best, divergence)
    )
    return TextScores(-likelihood, right, kl)
