"""Measures held-out text under an edit: its likelihood, and how far predictions moved.

Shape letters: B rows, T tokens, d width, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import kl_div

from evals.running.forward import POSITIONS_AT_ONCE, Head

Scores = npt.NDArray[np.float64]


@torch.inference_mode()
def measure_heldout(
    hidden: torch.Tensor, base: torch.Tensor | None, head: Head, targets: torch.Tensor
) -> tuple[Scores, Scores]:
    """Mean negative log-likelihood and mean KL divergence of each row, in nats per token.

    KL(base || edited) = Σ_v p(v) (log p(v) - log q(v)), p the base model's predicted distribution
    and q the edited model's. The logits of a few positions exist at a time.

    `hidden`, `base`: [B, T, d], final hidden states of the edited and of the base model at the
    tokens before each of `targets` (int64 [B, T]); `base` is None to measure the base itself.
    Returns float64 [B] twice.
    """
    states, true = hidden.flatten(0, 1), targets.flatten()
    before = states if base is None else base.flatten(0, 1)
    log_likelihood, divergence = [], []
    for begin in range(0, len(states), POSITIONS_AT_ONCE):
        some = slice(begin, begin + POSITIONS_AT_ONCE)
        logits = head(states[some]).float()
        index = true[some].to(logits.device).unsqueeze(-1)
        log_likelihood.append(logits.gather(-1, index).squeeze(-1) - logits.logsumexp(-1))
        if base is not None:
            log_p = head(before[some]).float().log_softmax(-1)
            log_q = logits.log_softmax(-1)
            divergence.append(kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1))
    mean = -_means(log_likelihood, targets)
    return mean, _means(divergence, targets) if divergence else np.zeros(len(mean))


def _means(pieces: list[torch.Tensor], like: torch.Tensor) -> Scores:
    values = torch.cat(pieces).view(like.shape).cpu().numpy()
    return np.asarray(values.mean(axis=1, dtype=np.float64))
