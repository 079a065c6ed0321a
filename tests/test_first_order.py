"""Contract: a response is the derivative along an edit, and its square says what the edit does.

Every head, whole block and variant of both families equals the derivative of the scalar with
respect to how much of the edit is blended in, taken the slow way. The estimates agree with exact
divergences and margins of small edits, and rank single heads of a trained model as measuring does.
No figure depends on which rows are computed together; the model is left as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
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

from evals.choose.units import list_units
from evals.data import Samples, Tokens, load_samples
from evals.data.windows import cut_windows
from evals.lab import heldout_texts
from evals.measure import first_order
from evals.measure.edits.engine import Engine
from evals.measure.first_order import Probe, draw_uniform, expand_loss, expand_margins
from evals.run.models import LoadedModel, open_model
from surgery.errors import MeasurementError
from surgery.in_memory import short_circuit
from surgery.selection import EditedHeads, Selection, parse_selection
from surgery.variants import VARIANTS, Fit

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
        M, c = torch.from_numpy(fit.weight).double(), torch.from_numpy(fit.bias).double()
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


def respond(
    model: Any, of: str, edits: Iterable[Selection], rows: int = 6, draws: int = 2, **more: Any
) -> dict[Selection, np.ndarray]:
    """Of each edit [D, N]: the sum of its parts' responses to held-out text or to passages."""
    parts = sorted({part for edit in edits for part in edit})
    looking = Probe(model, parts, FITS, more.get("advance", lambda done: None))
    if of == "heldout":
        values = expand_loss(looking, more.get("windows", windows(20))[:rows], draws)
    else:
        samples = more.get("samples", some_passages(20))
        values, _ = expand_margins(looking, samples.select(np.arange(len(samples)) < rows))
    return {e: sum(values[parts.index(part)] for part in e) for e in edits}


def scalars(of: str, logits: torch.Tensor, tokens: torch.Tensor, draw: int) -> torch.Tensor:
    """What responds, of each row [N], from logits [N, T, V]."""
    if of == "passages":
        return margins(logits[:, 6:], tokens[:, 7:])[:, draw]
    random = draw_uniform(range(len(tokens)), tokens.shape[1] - 1, draw + 1)[..., draw]
    log_p = logits.log_softmax(-1)
    said = drawn(log_p.detach(), random)
    scale = (0.5 / (tokens.shape[1] - 1)) ** 0.5
    return scale * log_p.gather(-1, said.unsqueeze(-1)).squeeze(-1).sum(1)


def figure(moved: np.ndarray) -> float:
    """The mean square of what an edit moves."""
    return float(np.square(moved).mean())


def margins(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    p = logits.softmax(-1).gather(-1, true.unsqueeze(-1)).squeeze(-1)
    return p.log() - (1 - p).log()  # the log-odds of the true token


@pytest.mark.parametrize(
    ("of", "name"),
    [
        *(("heldout", "neo"), ("passages", "neox-parallel"), ("heldout", "neox-sequential")),
        *(pytest.param("heldout", "neox-parallel", marks=pytest.mark.slow),),
        *(pytest.param("passages", name, marks=pytest.mark.slow) for name in NAMES[1:]),
    ],
)
def test_a_response_is_the_derivative_along_the_edit(name, of):
    model = stock(name).double()
    rows = windows(20)[:6] if of == "heldout" else some_passages(20).tokens[:6]
    tokens = torch.from_numpy(rows.astype(np.int64))
    edits = [edit(spec, variant) for spec in ("0.0", "2.3", "1", "3") for variant in EVERY]
    mixed = (
        *edit("0", "zero"),
        EditedHeads(2, (0, 2), "linear"),
        EditedHeads(2, (1, 3), "identity"),
    )
    found = respond(model, of, [*edits, mixed])
    rounding = 2e-4 if name == "neo" else 2e-6  # its attention is computed in float32
    for selection, ours in found.items():
        for draw in range(2):
            share = torch.zeros((), dtype=torch.float64, requires_grad=True)
            s = scalars(of, logits_with(name, model, tokens, selection, share), tokens, draw)
            slopes = [float(torch.autograd.grad(row, share, retain_graph=True)[0]) for row in s]
            close = {"rtol": rounding, "atol": rounding * np.ptp(slopes)}
            np.testing.assert_allclose(ours[draw], slopes, **close)


@pytest.mark.parametrize("name", ["neox-parallel", pytest.param("neo", marks=pytest.mark.slow)])
def test_estimates_of_small_edits_are_what_is_measured(name):
    model = stock(name)
    with torch.no_grad():  # so that no head does much
        for block in blocks_of(model):
            attention = block.attn.attention if name == "neo" else block.attention
            out = attention.out_proj if name == "neo" else attention.dense
            out.weight *= 0.02
            out.bias *= 0.02
    samples = some_passages()
    edits = [edit("0", "zero"), edit("0.1,2", "zero")]
    edits.append(edit("2", "zero") if name == "neo" else edit("1,3", "identity"))
    cost = respond(model, "heldout", edits, draws=200, windows=windows())
    moved = respond(model, "passages", edits, samples=samples)
    tokens = [torch.from_numpy(t.astype(np.int64)) for t in (windows(), samples.tokens)]

    def measured(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            text, recited = (model(some[:, :-1]).logits.double() for some in tokens)
        return text.log_softmax(-1), margins(recited[:, 6:], tokens[1][:, 7:])

    log_p, before = measured(model)
    for selection in edits:
        with short_circuit(model, selection):
            log_q, after = measured(model)
        kl = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
        margin = float((after - before).square().mean())
        noise = 4 / np.sqrt(200)  # a square's relative deviation is 1.4; rows and sums only help
        assert figure(cost[selection]) == pytest.approx(kl, rel=noise)
        assert figure(moved[selection]) == pytest.approx(margin, rel=0.05)


# --- edited models --------------------------------------------------------------------------------


def test_a_compact_model_responds_where_attention_is_left():
    name = "neox-parallel compact identity"
    (moved,) = respond(
        model_named(name), "passages", [edit("2", "zero")], samples=passages(name)
    ).values()
    assert figure(moved) > 0


def test_heads_that_attend_to_themselves_alone_do_not_answer_to_identity():
    attending, alone = (parse_selection(spec, "identity", 4, 2) for spec in ("0,2", "1,3"))
    silent = parse_selection("1", "zero", 4, 2)
    found = respond(
        model_named("neox-parallel stock identity"), "heldout", [attending, alone, silent]
    )
    assert figure(found[alone]) < 1e-9 * figure(found[attending])
    assert figure(found[silent]) > 0


# --- what figures do not depend on ----------------------------------------------------------------

HEADS_OF_ALL = [
    edit(f"{block}.{head}", v) for block in range(4) for head in range(4) for v in EVERY
]


def values(*arguments: Any, **options: Any) -> np.ndarray:
    return np.stack([*respond(*arguments, **options).values()])


@pytest.mark.parametrize("of", ["heldout", "passages"])
def test_rows_have_random_numbers_of_their_own(monkeypatch, of):
    model = stock("neox-parallel")
    whole = values(model, of, HEADS_OF_ALL, rows=20)
    assert len(np.unique(whole[0])) > 30  # of 40: signs may be the same by chance
    close = {"rtol": 1e-4, "atol": 1e-5 * whole.std()}
    part = values(model, of, HEADS_OF_ALL, rows=7)
    np.testing.assert_allclose(part, whole[..., :7], **close)
    monkeypatch.setattr(first_order, "_BYTES", 1)
    done = []
    alone = values(model, of, HEADS_OF_ALL, rows=7, advance=done.append)
    assert done == [1] * 7
    np.testing.assert_allclose(alone, whole[..., :7], **close)


def test_the_model_is_left_as_it_was():
    model = stock("neo")
    frozen = next(model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    respond(model, "heldout", [edit("1", "zero")])
    assert not frozen.requires_grad
    assert sum(not parameter.requires_grad for parameter in model.parameters()) == 1
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_half_precision_gives_about_the_same():
    whole, half = stock("neox-parallel"), stock("neox-parallel").bfloat16()
    ours, theirs = (
        [figure(moved) for moved in values(model, "heldout", HEADS_OF_ALL)]
        for model in (whole, half)
    )
    assert spearmanr(ours, theirs).statistic > 0.95


@pytest.mark.parametrize("name", ["neox-parallel", "neo"])
def test_an_offloaded_model_answers_the_same(name):
    whole = values(stock(name), "heldout", HEADS_OF_ALL)
    model = stock(name)
    for block in blocks_of(model):
        cpu_offload(block, torch.device("cpu"))
    np.testing.assert_array_equal(values(model, "heldout", HEADS_OF_ALL), whole)
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
        respond(model, "heldout", [edit("0", "zero")])


def test_a_fitted_variant_needs_its_fit(monkeypatch):
    monkeypatch.setitem(FITS, 1, None)
    with pytest.raises(ValueError, match="needs the fit of its block"):
        respond(stock("neox-parallel"), "heldout", [edit("1", "mean")])


# --- trained models -------------------------------------------------------------------------------


def agreement(loaded: LoadedModel, samples: Samples, heldout: Tokens, number: int) -> list[float]:
    """Of random single heads with `identity` or `zero`: rank correlation of estimated and measured
    KL, their median ratio, and rank correlation of margins with the rise of the passages' NLL."""
    size = loaded.dimensions
    heads = list_units(size.num_blocks, size.num_heads, "heads", ("identity", "zero"))
    chosen = np.random.default_rng(0).choice(len(heads), number, replace=False)
    edits = [(heads[index],) for index in chosen]
    everything = {"rows": 10**6, "draws": 4, "windows": heldout, "samples": samples}
    cost, margin = (
        [figure(moved) for moved in respond(loaded.model, of, edits, **everything).values()]
        for of in ("heldout", "passages")
    )
    measured = Engine(loaded.model, samples, heldout).measure(edits)
    kl = [one.heldout_kl.mean() for one in measured]
    nll = [one.nll.mean() for one in measured]
    ratio = float(np.median(np.divide(cost, kl)))
    return [spearmanr(cost, kl).statistic, ratio, spearmanr(margin, nll).statistic]


@pytest.mark.slow
def test_single_heads_of_a_lab_model_are_ranked_as_they_are_measured():
    loaded = open_model("lab:pythia", device="cpu")
    samples = load_samples("lab:pythia", tokenizer=loaded.tokenizer)
    some = samples.select(samples.members & (np.arange(len(samples)) % 4 == 0))
    heldout = cut_windows(heldout_texts(), loaded.tokenizer, 64, most=64)
    kl, ratio, margin = agreement(loaded, some, heldout, 36)
    assert kl > 0.95
    assert 0.85 < ratio < 1.15
    assert margin > 0.9


# --- margins -------------------------------------------------------------------------------------


def test_margins_are_what_the_true_token_leads_by():
    model, samples = stock("neox-parallel"), some_passages()
    ids = torch.from_numpy(samples.tokens).long()
    logits = model(ids[:, :-1]).logits[:, samples.prefix_length - 1 :].detach()
    true = ids[:, samples.prefix_length :].unsqueeze(-1)
    looking = Probe(model, edit("0", "zero"), {}, lambda done: None)
    _, found = expand_margins(looking, samples)
    right = (logits.argmax(-1, keepdim=True) == true).squeeze(-1).numpy()
    np.testing.assert_array_equal(found > 0, right)
    best = logits.scatter(-1, true, -torch.inf).amax(-1)
    expected = (logits.gather(-1, true).squeeze(-1) - best).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
