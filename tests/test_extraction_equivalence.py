"""One pass tells what decoding would: the contract of the memorization test.

For both families, stock and compact, in float32 and for every row: the exact match, the first
divergence and the free-running tokens equal `model.generate(do_sample=False)`, row by row; every
likelihood equals that of the model's own logits; nothing depends on the batch size.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reciting import MODELS, PREFIX, SUFFIX, generate, model_named, passages

from evals.measure.memorization.extraction import extract, run_pass
from evals.run.forward import check_head
from evals.run.predictions import Sampling
from surgery.errors import MeasurementError, UnsupportedError


def by_hand(model, samples):
    """What `generate` says after each prefix, one row at a time."""
    prefixes = torch.from_numpy(samples.prefixes.astype(np.int64))
    rows = [generate(model, row[None], samples.suffix_length) for row in prefixes]
    return torch.cat(rows).numpy()


FEW = ("neox-parallel", "neo", "neox-parallel stock identity", "neo compact identity")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in MODELS]
)
def test_exact_match_and_decoded_tokens_equal_generate_row_by_row(name):
    model, samples = model_named(name), passages(name)
    said = by_hand(model, samples)
    test = extract(model, samples, full=True, batch_size=10)
    assert test.decoded.tolist() == said.tolist()
    assert test.exact.tolist() == (said == samples.suffixes).all(axis=1).tolist()
    divergences = [
        next((i for i, (a, b) in enumerate(zip(mine, true, strict=True)) if a != b), SUFFIX)
        for mine, true in zip(said, samples.suffixes, strict=True)
    ]
    assert test.values["first_divergence"].tolist() == divergences
    # The rows must be of every kind, or the above shows nothing.
    assert 0 < test.exact.sum() < len(samples)
    assert len(set(divergences)) > 3


@pytest.mark.parametrize("name", MODELS)
def test_likelihoods_are_those_of_the_models_own_logits(name):
    model, samples = model_named(name), passages(name)
    tokens = torch.from_numpy(samples.tokens.astype(np.int64))
    with torch.inference_mode():
        log_p = model(tokens).logits[:, PREFIX - 1 : -1].log_softmax(-1)
    true = log_p.gather(-1, tokens[:, PREFIX:, None]).squeeze(-1).numpy()
    result = run_pass(model, samples.tokens, PREFIX, sampling=Sampling(), batch_size=7)
    np.testing.assert_allclose(result.predictions.log_likelihood, true, rtol=1e-4, atol=1e-5)
    assert result.predictions.greedy.tolist() == log_p.argmax(-1).tolist()
    assert result.decoded is None


@pytest.mark.parametrize("name", ["neox-parallel", "neo compact identity"])
@pytest.mark.parametrize("full", [False, True])
def test_nothing_depends_on_the_batch_size(name, full):
    model, samples = model_named(name), passages(name)
    once = extract(model, samples, full=full, batch_size=len(samples))
    for size in (1, 5):
        again = extract(model, samples, full=full, batch_size=size)
        assert again.exact.tolist() == once.exact.tolist()
        np.testing.assert_allclose(again.nll, once.nll, rtol=1e-5)
        if full:
            assert again.decoded.tolist() == once.decoded.tolist()


@settings(max_examples=6, deadline=None)
@given(prefix=st.integers(1, 6), suffix=st.integers(1, 12))
def test_any_prefix_and_suffix_length(prefix, suffix):
    model = model_named("neox-parallel")
    samples = passages("neox-parallel", rows=4, prefix=prefix, suffix=suffix)
    test = extract(model, samples, full=True)
    assert test.decoded.tolist() == by_hand(model, samples).tolist()


def test_the_end_of_text_token_is_a_token_like_any_other():
    model, samples = model_named("neox-parallel"), passages("neox-parallel")
    ends = int(samples.tokens[0, PREFIX + 1])  # inside a passage that is recited
    config = model.generation_config
    before, config.eos_token_id = config.eos_token_id, ends
    try:
        assert extract(model, samples, full=True).exact[0]
    finally:
        config.eos_token_id = before


def test_a_model_of_nan_is_an_error_and_not_a_model_that_forgot():
    from tiny_compact import stock

    model = stock("neox-parallel")
    with torch.no_grad():
        model.gpt_neox.final_layer_norm.weight.fill_(float("nan"))
    with pytest.raises(MeasurementError) as error:
        extract(model, passages("neox-parallel"))
    assert str(error.value) == (
        "the model gives likelihoods that are not finite (expected finite numbers, got NaN or "
        "infinity in 15 of 15 rows); use `dtype=float32` or bfloat16; if it stays, the model is "
        "broken"
    )


def test_a_model_that_changes_its_logits_is_refused():
    from tiny_compact import stock

    model = stock("neox-parallel")
    forward = model.forward

    def halved(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits / 2
        return output

    model.forward = halved
    with pytest.raises(UnsupportedError) as error:
        check_head(model)
    assert str(error.value) == (
        "gpt_neox: the model's logits are not its output embedding of its hidden states"
    )


def test_a_model_without_a_head_is_refused():
    from tiny_compact import stock

    with pytest.raises(UnsupportedError, match=r"^gpt_neox: the model has no output embedding$"):
        check_head(stock("neox-parallel").gpt_neox)


def test_a_batch_size_of_zero_is_an_error():
    with pytest.raises(MeasurementError) as error:
        extract(model_named("neo"), passages("neo"), batch_size=-1)
    assert str(error.value) == "wrong batch size (expected at least 1 row, got -1)"
