"""Contract: what measures a model works on every family: groups, head sizes, windows, norms.

Passes are taken up at any block, edits measured, and context vectors fitted, with the numbers that
the whole model gives.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from decoders import BLOCKS, CONFIGS, GROUPS, HEADS, SIZE, write_decoder
from reciting import passages
from torch.nn import functional

from evals.edits.engine import Engine
from evals.running.batching import rows_per_batch
from evals.running.runs import from_block, from_tokens
from evals.search.units import units
from evals.sweep.edits import swept
from surgery.editing.in_memory import short_circuit
from surgery.editing.loading import load_model
from surgery.fitting.calibration import Calibration
from surgery.fitting.fitter import Fitter
from surgery.selection import Part, parse_selection

TOKENS = np.random.default_rng(0).integers(0, 128, (20, 24), dtype=np.int32)


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("measured")
    return load_model(write_decoder(folder / request.param, request.param))


@torch.inference_mode()
def test_a_pass_is_taken_up_at_any_block(model) -> None:
    tokens = torch.from_numpy(TOKENS[:3].astype(np.int64))
    whole = from_tokens(model, tokens, keep=range(BLOCKS))
    assert torch.equal(whole.hidden, model.base_model(tokens).last_hidden_state)
    for block in range(BLOCKS):
        run = from_block(model, block, whole.inputs[block], keep=range(block, BLOCKS))
        assert torch.equal(run.hidden, whole.hidden)
    assert torch.equal(whole.hidden, model.base_model(tokens).last_hidden_state)


def test_edits_are_measured_as_they_are(model) -> None:
    samples = passages(TOKENS[:6], 8)
    engine = Engine(model, samples, TOKENS[6:10], batch_size=4)
    edits = [
        parse_selection(spec, "zero", BLOCKS, HEADS, GROUPS) for spec in ("1", "2.3", "0.g1,2")
    ]
    ids = torch.from_numpy(samples.tokens.astype(np.int64))
    for edit, measured in zip(edits, engine.measure(edits), strict=True):
        with short_circuit(model, edit), torch.no_grad():
            logits = model(ids).logits[:, 7:-1]
        nll = functional.cross_entropy(logits.flatten(0, 1), ids[:, 8:].flatten(), reduction="none")
        np.testing.assert_allclose(measured.nll, nll.view(6, -1).mean(-1), rtol=1e-5)
    assert rows_per_batch(model, 64) >= 1


def test_context_vectors_are_fitted(model) -> None:
    windows = np.random.default_rng(1).integers(0, 128, (40, 64), dtype=np.int32)
    fitter = Fitter(model, Calibration(windows, (), spread=False))
    seen: list[torch.Tensor] = []
    attention = model.model.layers[1].self_attn
    output = attention.o_proj if hasattr(attention, "o_proj") else attention.dense
    hook = output.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        for rows in windows:
            model(torch.from_numpy(rows[None].astype(np.int64)))
    hook.remove()
    d = model.config.hidden_size
    fit = fitter.fits([Part(1, tuple(range(HEADS)), "linear")])[1]
    assert fit.weight is not None
    assert fit.weight.shape == (HEADS, SIZE, d)
    mean = torch.cat(seen).flatten(0, 1).mean(0).view(HEADS, SIZE)
    np.testing.assert_allclose(fit.mean, mean, atol=1e-4)
    assert fit.r2 is not None


def test_groups_are_units_of_a_search_and_of_a_sweep() -> None:
    pieces = [part.heads for part in units(1, 4, "mixed", ["zero"], 2)]
    assert pieces == [(0, 1, 2, 3), (0, 1), (2, 3), (0,), (1,), (2,), (3,)]
    assert [part.heads for part in units(1, 2, "heads", ["zero"])] == [(0,), (1,)]
    heads = [s[0].heads for s, kind in swept(1, 4, ["zero"], heads=True, num_groups=2).items()]
    assert heads == [(0, 1, 2, 3), (0,), (1,), (2,), (3,), (0, 1), (2, 3)]
