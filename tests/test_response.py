"""Contract: a response is the derivative along an edit, and its square says what the edit does.

Every head, whole block and variant of both families equals the derivative of the scalar with
respect to how much of the edit is blended in, taken the slow way. The estimates agree with exact
divergences and margins of small edits, and rank single heads of a trained model as measuring does.
No figure depends on which rows are computed together; the model is left as it was.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from fits import random_fits
from reciting import model_named, passages
from scipy.stats import spearmanr
from tiny_compact import BLOCKS, HEADS, VOCABULARY, WIDTH, blocks_of, stock

from evals.lab import heldout_texts
from evals.models import open_model
from evals.response import Text, Units, engine, heldout_text, margins_text, respond
from evals.response.margins import margins as least_margins
from evals.response.responses import Responses
from evals.samples import Samples, Tokens, load_samples
from evals.samples.windows import control_windows
from evals.search.units import units
from evals.sweep.engine import Engine
from surgery.editing.in_memory import short_circuit
from surgery.errors import MeasurementError
from surgery.families import family_of
from surgery.selection import Part, Selection, parse_selection
from surgery.variants import VARIANTS, Fit, Sources, variant_of

SIZE = WIDTH // HEADS
FITS = random_fits(range(BLOCKS), HEADS, WIDTH)
EVERY = tuple(VARIANTS)
NAMES = ("neox-parallel", "neox-sequential", "neo")


def windows(rows: int = 6, length: int = 10) -> Tokens:
    return np.random.default_rng(0).integers(2, VOCABULARY, (rows, length)).astype(np.int32)


def some_passages(rows: int = 6) -> Samples:
    return Samples(windows(rows, 13), 7, tuple(map(str, range(rows))), "random rows")


def edit(spec: str, variant: str) -> Selection:
    return parse_selection(spec, variant, BLOCKS, HEADS)


# --- the slow way ---------------------------------------------------------------------------------


def maps_of(name: str, block: Any, fit: Fit, variant: str) -> tuple[torch.Tensor, torch.Tensor]:
    """M [H, h, d] and c [H, h], float64."""
    M = torch.zeros(HEADS, SIZE, WIDTH, dtype=torch.float64)
    c = torch.zeros(HEADS, SIZE, dtype=torch.float64)
    if variant == "mean":
        c = torch.from_numpy(fit.mean).double()
    elif variant == "linear":
        affine = variant_of("linear").affine(Sources(None, None, fit))
        M, c = torch.from_numpy(affine.weight).double(), torch.from_numpy(affine.bias).double()
    elif variant == "identity" and name == "neo":
        M = block.attn.attention.v_proj.weight.view(HEADS, SIZE, WIDTH)
    elif variant == "identity":
        fused = block.attention.query_key_value
        M = fused.weight.view(HEADS, 3, SIZE, WIDTH)[:, 2]
        c = fused.bias.view(HEADS, 3, SIZE)[:, 2]
    return M.detach(), c.detach()


def logits_with(
    name: str, model: Any, tokens: torch.Tensor, edits: Selection, share: torch.Tensor
) -> torch.Tensor:
    """Logits where `share` of an edit is in force: z + share (M x + c - z) for its heads."""
    inputs: dict[int, torch.Tensor] = {}
    with ExitStack() as hooks:
        for part in edits:
            block = blocks_of(model)[part.block]
            M, c = maps_of(name, block, FITS[part.block], part.variant)
            attention = block.attn.attention if name == "neo" else block.attention
            out = attention.out_proj if name == "neo" else attention.dense
            chosen = torch.zeros(HEADS, 1, dtype=torch.float64)
            chosen[list(part.heads)] = 1
            gone = len(part.heads) == HEADS and part.variant == "zero"

            def enter(module, args, kwargs, at=part.block):
                inputs[at] = args[0] if args else kwargs["hidden_states"]

            def blend(module, args, at=part.block, M=M, c=c, chosen=chosen):
                z = args[0].unflatten(-1, (HEADS, SIZE))
                alone = torch.einsum("hsd,btd->bths", M, inputs[at]) + c
                return ((z + share * chosen * (alone - z)).flatten(2),)

            def leave(module, args, output, gone=gone):
                return output - share * module.bias if gone else output

            hooks.callback(attention.register_forward_pre_hook(enter, with_kwargs=True).remove)
            hooks.callback(out.register_forward_pre_hook(blend).remove)
            hooks.callback(out.register_forward_hook(leave).remove)
        return model(tokens[:, :-1]).logits


def drawn(log_p: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
    """The token at which the distribution function passes the random number."""
    found = [
        [np.searchsorted(np.cumsum(p), u, side="right") for p, u in zip(row, numbers, strict=True)]
        for row, numbers in zip(log_p.exp().numpy(), random.numpy(), strict=True)
    ]
    return torch.tensor(found)


def scalars(text: Text, logits: torch.Tensor, tokens: torch.Tensor, draw: int) -> torch.Tensor:
    """s of each row [N], from logits [N, T, V]."""
    random = text.random(range(len(tokens)), draw + 1)[..., draw]
    logits = logits[:, text.prefix_length - 1 :]
    log_p = logits.log_softmax(-1)
    if text.prefix_length == 1:
        said = drawn(log_p.detach(), random)
        return log_p.gather(-1, said.unsqueeze(-1)).squeeze(-1).sum(1)
    return (random * margins(logits, tokens[:, text.prefix_length :])).sum(1)


def figure(found: Responses, selection: Selection) -> float:
    """The mean square of what an edit moves."""
    total = found.values[found.units.of(selection)].sum(axis=0)
    return float(found.scale * np.square(total).mean())


def margins(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    p = logits.softmax(-1).gather(-1, true.unsqueeze(-1)).squeeze(-1)
    return p.log() - (1 - p).log()  # the log-odds of the true token


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", ["heldout", "passages"])
def test_a_response_is_the_derivative_along_the_edit(name, of):
    model = stock(name).double()
    text = heldout_text(windows()) if of == "heldout" else margins_text(some_passages())
    tokens = torch.from_numpy(text.tokens.astype(np.int64))
    found = respond(model, text, EVERY, FITS, draws=2)
    edits = [edit(spec, variant) for spec in ("0.0", "2.3", "1", "3") for variant in EVERY]
    mixed = (*edit("0", "zero"), Part(2, (0, 2), "linear"), Part(2, (1, 3), "identity"))
    rounding = 2e-4 if name == "neo" else 2e-6  # its attention is computed in float32
    for selection in [*edits, mixed]:
        for draw in range(2):
            share = torch.zeros((), dtype=torch.float64, requires_grad=True)
            s = scalars(text, logits_with(name, model, tokens, selection, share), tokens, draw)
            slopes = [float(torch.autograd.grad(row, share, retain_graph=True)[0]) for row in s]
            ours = found.values[found.units.of(selection), draw].sum(0)
            np.testing.assert_allclose(ours, slopes, rtol=rounding, atol=rounding * np.ptp(slopes))


@pytest.mark.parametrize("name", ["neox-parallel", "neo"])
def test_estimates_of_small_edits_are_what_is_measured(name):
    model = stock(name)
    with torch.no_grad():  # so that no head does much
        for block in blocks_of(model):
            attention = block.attn.attention if name == "neo" else block.attention
            out = attention.out_proj if name == "neo" else attention.dense
            out.weight *= 0.02
            out.bias *= 0.02
    samples = some_passages()
    cost = respond(model, heldout_text(windows()), ("identity", "zero"), draws=200)
    moved = respond(model, margins_text(samples), ("identity", "zero"), draws=6)
    tokens = [torch.from_numpy(t.astype(np.int64)) for t in (windows(), samples.tokens)]

    def measured(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            text, recited = (model(some[:, :-1]).logits.double() for some in tokens)
        return text.log_softmax(-1), margins(recited[:, 6:], tokens[1][:, 7:])

    log_p, before = measured(model)
    for selection in (edit("0", "zero"), edit("1,3", "identity"), edit("0.1,2", "zero")):
        if name == "neo" and "identity" in str(selection):
            selection = edit("2", "zero")
        with short_circuit(model, selection):
            log_q, after = measured(model)
        kl = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
        margin = float((after - before).square().mean())
        noise = 4 / np.sqrt(200)  # a square's relative deviation is 1.4; rows and sums only help
        assert figure(cost, selection) == pytest.approx(kl, rel=noise)
        assert figure(moved, selection) == pytest.approx(margin, rel=0.05)


# --- storage --------------------------------------------------------------------------------------


def test_units_are_counted_head_by_head_and_a_bias_goes_only_with_a_silent_block():
    config = stock("neox-parallel").config.to_dict()
    every = Units(family_of(config).dimensions(config), (0, 2), ("zero", "mean"))
    assert len(every) == 2 * (4 * 2 + 1)
    assert every.of(edit("0.1", "mean")) == [3]
    assert every.of(edit("2", "mean")) == [10, 12, 14, 16]
    assert every.of(edit("2", "zero")) == [9, 11, 13, 15, 17]
    assert every.of((Part(0, (0, 1, 2), "zero"), Part(0, (3,), "mean"))) == [0, 2, 4, 7]
    with pytest.raises(ValueError, match="not in tuple"):
        every.of(edit("1", "zero"))
    with pytest.raises(ValueError, match="not in tuple"):
        every.of(edit("0", "linear"))


def test_a_compact_model_has_units_where_attention_is_left():
    model = model_named("neox-parallel compact identity")
    text = margins_text(passages("neox-parallel compact identity"))
    found = respond(model, text, ("zero",), draws=2)
    assert found.units.blocks == (0, 2)
    assert figure(found, edit("2", "zero")) > 0


def test_heads_that_attend_to_themselves_alone_do_not_answer_to_identity():
    found = respond(model_named("neox-parallel stock identity"), heldout_text(windows()),
                    ("identity", "zero"), draws=2)  # fmt: skip
    attending, alone = (parse_selection(spec, "identity", 4, 2) for spec in ("0,2", "1,3"))
    assert figure(found, alone) < 1e-9 * figure(found, attending)
    assert figure(found, parse_selection("1", "zero", 4, 2)) > 0


# --- what figures do not depend on ----------------------------------------------------------------


@pytest.mark.parametrize("of", ["heldout", "passages"])
def test_rows_have_random_numbers_of_their_own(monkeypatch, of):
    def text(rows):
        if of == "heldout":
            return heldout_text(windows(20)[:rows])
        return margins_text(some_passages(20).select(np.arange(20) < rows))

    model = stock("neox-parallel")
    whole = respond(model, text(20), EVERY, FITS, draws=3).values
    assert len(np.unique(whole[0])) > 50  # of 60: six signs may be the same by chance
    part = respond(model, text(7), EVERY, FITS, draws=3).values
    np.testing.assert_allclose(part, whole[..., :7], rtol=1e-4, atol=1e-5 * whole.std())
    monkeypatch.setattr(engine, "_BYTES", 1)
    done = []
    alone = respond(model, text(7), EVERY, FITS, draws=2, advance=done.append).values
    assert done == [1] * 7
    np.testing.assert_allclose(alone, whole[:, :2, :7], rtol=1e-4, atol=1e-5 * whole.std())


def test_the_model_is_left_as_it_was():
    model = stock("neo")
    frozen = next(model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    respond(model, heldout_text(windows()), ("zero",), draws=2)
    assert not frozen.requires_grad
    assert sum(not parameter.requires_grad for parameter in model.parameters()) == 1
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_half_precision_gives_about_the_same():
    whole = respond(stock("neox-parallel"), heldout_text(windows()), EVERY, FITS, draws=2)
    half = respond(stock("neox-parallel").bfloat16(), heldout_text(windows()), EVERY, FITS, draws=2)
    some = [edit(f"{block}.{head}", v) for block in range(4) for head in range(4) for v in EVERY]
    ours, theirs = ([figure(one, e) for e in some] for one in (whole, half))
    assert spearmanr(ours, theirs).statistic > 0.95


@pytest.mark.parametrize("name", ["neox-parallel", "neo"])
def test_an_offloaded_model_answers_the_same(name):
    whole = respond(stock(name), heldout_text(windows()), EVERY, FITS, draws=2)
    model = stock(name)
    for block in blocks_of(model):
        cpu_offload(block, torch.device("cpu"))
    np.testing.assert_array_equal(
        respond(model, heldout_text(windows()), EVERY, FITS, draws=2).values, whole.values
    )
    for parameter in blocks_of(model).parameters():
        assert parameter.is_meta
        assert parameter.requires_grad


def test_gradients_that_are_not_finite_are_an_error():
    model = stock("neox-parallel")
    with torch.no_grad():
        model.gpt_neox.layers[2].attention.dense.weight[:] = float("nan")
    with pytest.raises(
        MeasurementError, match=r"gradients are not finite \(got NaN or infinity in 6 rows"
    ):
        respond(model, heldout_text(windows()), ("zero",), draws=2)


def test_a_fitted_variant_needs_its_fit():
    with pytest.raises(ValueError, match="needs the fit of its block"):
        respond(stock("neox-parallel"), heldout_text(windows()), ("mean",), draws=2)


# --- trained models -------------------------------------------------------------------------------


def agreement(model: Any, samples: Samples, heldout: Tokens, number: int) -> tuple[float, ...]:
    """Of random single heads with `identity` or `zero`: rank correlation of estimated and measured
    KL, their median ratio, and rank correlation of margins with the rise of the passages' NLL."""
    cost = respond(model, heldout_text(heldout), ("identity", "zero"), draws=4)
    moved = respond(model, margins_text(samples), ("identity", "zero"), draws=samples.suffix_length)
    size = cost.units.dimensions
    heads = units(size.num_blocks, size.num_heads, "heads", cost.units.variants)
    chosen = np.random.default_rng(0).choice(len(heads), number, replace=False)
    measured = Engine(model, samples, heldout).measure([(heads[index],) for index in chosen])
    estimated = [figure(cost, one.selection) for one in measured]
    kl = [one.heldout_kl.mean() for one in measured]
    margins_moved = [figure(moved, one.selection) for one in measured]
    nll = [one.nll.mean() for one in measured]
    return (
        spearmanr(estimated, kl).statistic,
        float(np.median(np.divide(estimated, kl))),
        spearmanr(margins_moved, nll).statistic,
    )


@pytest.mark.slow
def test_single_heads_of_a_lab_model_are_ranked_as_they_are_measured():
    loaded = open_model("lab:pythia", device="cpu")
    samples = load_samples("lab:pythia", tokenizer=loaded.tokenizer)
    some = samples.select(samples.members & (np.arange(len(samples)) % 4 == 0))
    heldout = control_windows(heldout_texts(), loaded.tokenizer, 64, most=64)
    kl, ratio, margin = agreement(loaded.model, some, heldout, 36)
    assert kl > 0.95
    assert 0.85 < ratio < 1.15
    assert margin > 0.9


@pytest.mark.slow
@pytest.mark.real_data
def test_single_heads_of_a_deep_model_are_ranked_as_they_are_measured(data):
    deep = data / "deep"
    loaded = open_model(str(deep), device="cpu")
    samples = load_samples(str(deep / "records.jsonl"), tokenizer=loaded.tokenizer)
    recited = samples.counts >= 32
    some = samples.select(recited & (np.arange(len(samples)) % 3 == 0))
    text = (deep / "heldout.txt").read_text()
    heldout = control_windows([text], loaded.tokenizer, 64, most=48)
    kl, ratio, margin = agreement(loaded.model, some, heldout, 30)
    assert kl > 0.95
    assert 0.85 < ratio < 1.15
    assert margin > 0.9


# --- margins -------------------------------------------------------------------------------------


def test_margins_are_what_the_true_token_leads_by():
    model, samples = stock("neox-parallel"), some_passages()
    ids = torch.from_numpy(samples.tokens).long()
    logits = model(ids[:, :-1]).logits[:, samples.prefix_length - 1 :].detach()
    true = ids[:, samples.prefix_length :].unsqueeze(-1)
    found = least_margins(model, samples)
    right = (logits.argmax(-1, keepdim=True) == true).squeeze(-1).numpy()
    np.testing.assert_array_equal(found > 0, right)
    best = logits.scatter(-1, true, -torch.inf).amax(-1)
    expected = (logits.gather(-1, true).squeeze(-1) - best).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
