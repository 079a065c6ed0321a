"""Bounds from below how likely it is that a drawn completion is nearly the suffix, by beam search.

Shape letters: B rows, P prefix tokens, S suffix tokens, n beams of all rows together.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evals.data import Tokens, measure_lengths
from evals.measure.attacks.attack import Attack, AttackOutcome, Target
from evals.measure.memorization.measures import NEAR_MATCH
from evals.measure.memorization.recovery import CONFIDENCE
from evals.run.batching import row_ranges
from evals.run.forward import head_of, hidden_states, whole_cache
from evals.run.predictions import Sampling
from surgery.processes import share

ATTACKS = {"near-beams": {"rank": 15}}
BEAMS = 20
"""For each passage."""
DRAWS = 100
NEEDED = 1 - (1 - CONFIDENCE) ** (1 / DRAWS)
"""The probability of one draw that makes a near match among `DRAWS` more likely than not."""
_SCHEME = Sampling()

Table = npt.NDArray[np.int64]


def make_near_beams() -> Attack:
    return Attack(
        "near-beams",
        f"{BEAMS} beams over the {_SCHEME.top_k} most likely tokens; a beam is dropped when it can "
        f"no longer reach Levenshtein similarity {NEAR_MATCH}, or has less than 1/{BEAMS} of the "
        "probability that counts",
        f"{DRAWS} draws (top-k {_SCHEME.top_k}, temperature 1) contain a text of Levenshtein "
        f"similarity {NEAR_MATCH} or more with probability {CONFIDENCE} or more; the beams give a "
        "lower bound",
        "Cooper et al. 2026, arXiv 2603.24917",
        f"at most {BEAMS} decodings for each passage",
        _run,
    )


def _run(target: Target) -> AttackOutcome:
    samples = target.samples
    size = max(1, target.seen.batch_size // BEAMS)
    lengths, mass = measure_lengths(samples.tokens), np.zeros(len(samples))
    for length in np.unique(lengths):  # rows of one length share a batch
        mine = np.flatnonzero(lengths == length)
        rows, first = samples.tokens[mine, :length], samples.prefix_length
        parts = share(partial(_bound, target.model, rows, first), row_ranges(len(rows), size))
        mass[mine] = np.concatenate(parts)
    return AttackOutcome.of_all(mass >= NEEDED)


def _bound(model: Any, tokens: Tokens, first: int, rows: slice) -> npt.NDArray[np.float64]:
    return bound_near_mass(model, tokens[rows], first)


@torch.inference_mode()
def bound_near_mass(model: Any, tokens: Tokens, prefix_length: int) -> npt.NDArray[np.float64]:
    """A lower bound on the probability of a near match in one draw: int32 [B, P + S] -> [B].

    0 where it is below `NEEDED`. The beam that repeats the suffix is never crowded out.
    """
    suffixes, head = tokens[:, prefix_length:], head_of(model)
    length = suffixes.shape[1]
    rows, log_p = np.arange(len(tokens)), np.zeros(len(tokens))
    table = np.tile(np.arange(length + 1), (len(tokens), 1))
    read = torch.from_numpy(tokens[:, :prefix_length].astype(np.int64))
    hidden, cache = hidden_states(model, read, cache=whole_cache(model))
    for step in range(1, length + 1):
        top = head(hidden[:, -1]).float().topk(min(_SCHEME.top_k, model.config.vocab_size), dim=-1)
        drawn = top.values.log_softmax(-1).double().cpu().numpy()
        grown = log_p[:, None] + drawn
        beams, places = np.nonzero(grown >= np.log(NEEDED / BEAMS))
        log_p, said = grown[beams, places], top.indices.cpu().numpy()[beams, places]
        table = extend_distances(table[beams], said, suffixes[rows[beams]], step)
        kept = _choose_beams(rows[beams], log_p, table, step, len(tokens))
        beams, log_p, said, table = beams[kept], log_p[kept], said[kept], table[kept]
        rows = rows[beams]
        if not len(rows) or step == length:
            break
        cache.reorder_cache(torch.from_numpy(beams))
        hidden, cache = hidden_states(model, torch.from_numpy(said)[:, None], cache=cache)
    return np.asarray(np.bincount(rows, np.exp(log_p), len(tokens)), dtype=np.float64)


def extend_distances(table: Table, said: Table, suffixes: Tokens, step: int) -> Table:
    """Levenshtein distances [n, S + 1] to the first 0 … S tokens of each suffix [n, S].

    `table`: of the beams before their token `said` [n]; they have `step` tokens with it.
    """
    changed = table[:, :-1] + (suffixes != said[:, None])
    made = np.concatenate([np.full((len(said), 1), step), np.minimum(table[:, 1:] + 1, changed)], 1)
    places = np.arange(made.shape[1])
    return np.minimum.accumulate(made - places, axis=1) + places  # or a token of the suffix skipped


def _choose_beams(rows: Table, log_p: Any, table: Table, step: int, number: int) -> Table:
    """Those that may still come near, the likeliest of each row, of rows that may still count."""
    places = np.arange(table.shape[1])
    allowed = int((1 - NEAR_MATCH) * (table.shape[1] - 1))
    alive = np.flatnonzero((table + np.abs(step - places)).min(axis=1) <= allowed)
    exact = table[alive, step] == 0
    order = alive[np.lexsort((-log_p[alive], ~exact, rows[alive]))]
    starts = np.searchsorted(rows[order], rows[order])
    order = order[np.arange(len(order)) - starts < BEAMS]
    mass = np.bincount(rows[order], np.exp(log_p[order]), minlength=number)
    return np.asarray(order[mass[rows[order]] >= NEEDED])
