"""The memorization test: one teacher-forced pass over every passage, and its measures per row.

`--metrics exact` is that pass. `--metrics full` also measures the predicted distributions, and
decodes the rows that diverge, from their first divergence on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from evals.memorization import measures, membership
from evals.running.batching import row_ranges, rows_per_batch
from evals.running.decoding import free_running
from evals.running.forward import check_head, head_of, hidden_states
from evals.running.predictions import Positions, Sampling, measure_positions
from evals.running.processes import Processes, map_in_order
from evals.samples import Samples, Tokens
from surgery.errors import MeasurementError

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pass:
    """One model over N rows: what each suffix position gave, and what decoding gave (or None)."""

    positions: Positions
    decoded: npt.NDArray[np.int32] | None
    batch_size: int


@dataclass(frozen=True)
class FullMeasures:
    """What `--metrics full` adds, each float64 [N]: `evals.memorization.measures` defines them."""

    sampling: Sampling
    free_running_score: Scores
    similarity: Scores
    bleu: Scores
    entropy: Scores
    log_p_z: Scores


@dataclass(frozen=True)
class Extraction:
    """The measures of every row of `samples`, in order: [N], by teacher-forced tokens.

    `membership`: the scores that could be had, by name, higher being more like a member.
    `full`: None under `--metrics exact`. `decoded`: int32 [N, S], likewise.
    """

    samples: Samples
    batch_size: int
    exact: npt.NDArray[np.bool_]
    first_divergence: npt.NDArray[np.int64]
    score: Scores
    nll: Scores
    extraction_strength: Scores
    membership: dict[str, Scores]
    full: FullMeasures | None
    decoded: npt.NDArray[np.int32] | None


def extract(
    model: PreTrainedModel,
    samples: Samples,
    *,
    full: bool = False,
    sampling: Sampling | None = None,
    tokenizer: Any = None,
    batch_size: int | None = None,
    processes: Processes | None = None,
    advance: Callable[[int], None] | None = None,
) -> Extraction:
    """Runs the memorization test of `samples` on `model`.

    **Arguments:**

    - `full`: measure the distributions too, and decode what free-running measures need.
    - `sampling`: the scheme for (n, p)-discoverable extraction under `full`.
    - `tokenizer`: for the zlib score, which needs text.
    - `batch_size`: rows at a time; by default what memory allows.
    - `processes`: which share the work; every one of them gets the whole result.
    - `advance`: called with the number of rows that all processes have just finished, about.

    Raises `SamplesError` when the rows do not fit the model, `MeasurementError` when it gives
    numbers that are not finite.
    """
    config = model.config
    samples.check_fits(
        vocab_size=config.vocab_size,
        max_positions=getattr(config, "max_position_embeddings", None),
    )
    scheme = (sampling or Sampling()) if full else None
    result = run_pass(
        model,
        samples.tokens,
        samples.prefix_length,
        sampling=scheme,
        decode=full,
        batch_size=batch_size,
        processes=processes,
        advance=advance,
    )
    greedy, suffix = result.positions.greedy, samples.suffixes
    return Extraction(
        samples=samples,
        batch_size=result.batch_size,
        exact=measures.exact_match(greedy, suffix),
        first_divergence=measures.first_divergence(greedy, suffix),
        score=measures.memorization_score(greedy, suffix),
        nll=measures.suffix_nll(result.positions.log_likelihood),
        extraction_strength=measures.extraction_strength(greedy, suffix),
        membership=_membership(result.positions, samples, tokenizer),
        full=_full(result, suffix, scheme),
        decoded=result.decoded,
    )


def _membership(positions: Positions, samples: Samples, tokenizer: Any) -> dict[str, Scores]:
    log_likelihood, more = positions.log_likelihood, positions.distributions
    scores = {
        "loss": membership.loss_score(log_likelihood),
        "min_k": membership.min_k(log_likelihood),
    }
    if tokenizer is not None:
        texts = tokenizer.batch_decode(samples.suffixes.tolist())
        scores["zlib"] = membership.zlib_score(log_likelihood, texts)
    if more is not None:
        scores["min_k_plus_plus"] = membership.min_k_plus_plus(
            log_likelihood, more.entropy, more.spread
        )
    return scores


def _full(result: Pass, suffix: Tokens, sampling: Sampling | None) -> FullMeasures | None:
    more, decoded = result.positions.distributions, result.decoded
    if sampling is None or more is None or decoded is None:
        return None
    return FullMeasures(
        sampling=sampling,
        free_running_score=measures.memorization_score(decoded, suffix),
        similarity=measures.near_match_similarity(decoded, suffix),
        bleu=measures.bleu(decoded, suffix),
        entropy=measures.completion_entropy(more.entropy),
        log_p_z=measures.log_extraction_probability(more.log_drawn),
    )


def run_pass(
    model: PreTrainedModel,
    tokens: Tokens,
    prefix_length: int,
    *,
    sampling: Sampling | None = None,
    decode: bool = False,
    batch_size: int | None = None,
    processes: Processes | None = None,
    advance: Callable[[int], None] | None = None,
) -> Pass:
    """The teacher-forced pass over int32 [N, P + S] rows, and greedy decoding after it.

    Arguments as in `extract`. Batches consist of the same rows however many processes there are.
    """
    processes = processes or Processes()
    size = batch_size or processes.agree(
        rows_per_batch(model, tokens.shape[1], processes=processes.count)
    )
    check_head(model, torch.from_numpy(tokens[:1, :4].astype(np.int64)))

    def one(rows: slice) -> tuple[Positions, npt.NDArray[np.int32] | None]:
        part = _run_batch(model, tokens[rows], prefix_length, sampling, decode)
        if advance is not None:
            advance(processes.count * len(part[0].greedy))
        return part

    parts = map_in_order(row_ranges(len(tokens), size), one, processes=processes)
    positions = Positions.concatenate([part for part, _ in parts])
    _check_finite(positions)
    decoded = [more for _, more in parts if more is not None]
    return Pass(positions, np.concatenate(decoded) if decoded else None, size)


def _run_batch(
    model: PreTrainedModel,
    rows: Tokens,
    prefix_length: int,
    sampling: Sampling | None,
    decode: bool,
) -> tuple[Positions, npt.NDArray[np.int32] | None]:
    tokens = torch.from_numpy(rows.astype(np.int64))
    suffix = tokens[:, prefix_length:]
    # The last token predicts nothing that is measured, so it is not read.
    hidden, cache = hidden_states(model, tokens[:, :-1], use_cache=decode)
    positions = measure_positions(
        hidden[:, prefix_length - 1 :], head_of(model), suffix, sampling=sampling
    )
    if not decode:
        return positions, None
    leaves = measures.first_divergence(positions.greedy, rows[:, prefix_length:])
    greedy = torch.from_numpy(positions.greedy.astype(np.int64))
    decoded = free_running(model, suffix, prefix_length, torch.from_numpy(leaves), greedy, cache)
    return positions, decoded.numpy().astype(np.int32)


def _check_finite(positions: Positions) -> None:
    broken = np.asarray(~np.isfinite(positions.log_likelihood).all(axis=1))
    if broken.any():
        raise MeasurementError(
            "the model gives likelihoods that are not finite",
            expected="finite numbers",
            got=f"NaN or infinity in {int(broken.sum())} of {len(broken)} rows",
            fix="use `dtype=float32` or bfloat16; if it stays, the model is broken",
        )
